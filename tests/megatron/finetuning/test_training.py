import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_efficiency import ConfigError, gather_all
from megatron.checkpoint.saved_run import SavedRun
from megatron.finetuning.classifier import BertClassifier, read_bert
from megatron.finetuning.data import Examples, read_task
from megatron.finetuning.inputs import InputRows, make_rows
from megatron.finetuning.tasks import GLUE
from megatron.finetuning.training import (
    FinetuningConfig,
    dev_scores,
    finetune,
    make_engine,
)
from tests.megatron.finetuning.bert_task_data import RANDOM_LTD, save_bert_run, write_sentiment
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run

CONFIG = FinetuningConfig(epochs=12, batch_size=8, micro_batch_size=8, dropout=0.0, max_length=32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    model, tokenizer = read_bert(save_bert_run(folder / "run"))
    task, examples = read_task(write_sentiment(folder / "data"), "SST-2")
    sets = {name: (make_rows(part, tokenizer, 32), part) for name, part in examples.items()}
    return model, task, sets


def run(prepared, config=CONFIG, *, seed=1, learning_rate=3e-3, json_config=None, **more):
    model, task, sets = prepared
    classifier = BertClassifier(
        model, 1 if task.is_regression else 2, dropout=config.dropout, seed=seed
    )
    engine = make_engine(
        classifier,
        config,
        num_examples=len(sets["train"][0].ids),
        seed=seed,
        learning_rate=learning_rate,
        json_config=json_config,
    )
    return engine, finetune(engine, task, sets, config, seed=seed, **more)


def weights_of(engine):
    return gather_all(engine.whole_weights())


def test_it_learns_and_repeats_itself(prepared):
    losses = []
    first, scores = run(prepared, report=lambda *values: losses.append(values))
    assert [values[:2] for values in losses] == [(i, 96) for i in range(1, 97)]
    assert scores[-1]["dev"]["accuracy"] == 100
    assert losses[-1][2] < 0.1 < losses[0][2]
    again, same = run(prepared)
    assert same == scores
    for name, weight in weights_of(again).items():
        assert torch.equal(weight, weights_of(first)[name])
    other, _ = run(prepared, seed=2)
    assert not torch.equal(
        weights_of(other)["output_layer.weight"], weights_of(first)["output_layer.weight"]
    )


def test_the_pretraining_heads_stay(prepared):
    trained, _ = run(prepared)
    before, after = prepared[0].weights, trained.module.bert.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    heads = {name for name in before if name.startswith(("masked_lm_head", "sentence_head"))}
    padding = {"language_model.position_embeddings.weight"}
    assert heads <= same <= heads | padding


def losses_of(prepared, config, **more):
    losses = []
    run(prepared, config, report=lambda _, __, loss: losses.append(loss), **more)
    return losses


def test_a_last_batch_with_fewer_rows_is_exact_however_it_is_divided(prepared):
    """11 examples in batches of 8: the second one's loss is the mean of three rows."""
    _, task, sets = prepared
    texts, examples = sets["train"]
    fewer = InputRows(texts.ids[:11], texts.second_starts[:11], texts.pad)
    sets = {"train": (fewer, examples.first_rows(11)), "dev": sets["dev"]}
    small = (prepared[0], task, sets)
    config = replace(CONFIG, epochs=2, group_by_length=True)
    whole = losses_of(small, config)
    assert len(whole) == 4
    assert losses_of(small, replace(config, micro_batch_size=2)) == pytest.approx(whole, abs=1e-6)
    engine, _ = run(small, config)
    assert engine.counters.loss_tokens == 2 * 11
    assert engine.counters.corpus_tokens < 2 * 8 * max(map(len, fewer.ids)) * 2


def test_random_ltd_drops_tokens_in_training_only(prepared):
    plain, _ = run(prepared)
    dropped, scores = run(prepared, json_config=RANDOM_LTD)
    layers = (weights_of(engine)["output_layer.weight"] for engine in (dropped, plain))
    assert not torch.allclose(*layers, atol=1e-3)
    _, task, sets = prepared
    assert dev_scores(dropped, task, *sets["dev"]) == scores[-1]["dev"]
    assert dropped.counters.layer_tokens < 4 * dropped.counters.corpus_tokens


def test_real_values_are_not_rounded(prepared):
    model, _, sets = prepared
    texts, examples = sets["train"]
    # Floored or rounded they would all be 1.
    scores = 1.1 + 0.3 * examples.labels
    sets = {name: (texts, Examples(examples.first, None, scores)) for name in ("train", "dev")}
    losses = []
    _, found = run(
        (model, GLUE["STS-B"], sets),
        replace(CONFIG, epochs=20),
        report=lambda _, __, loss: losses.append(loss),
    )
    assert set(found[-1]["dev"]) == {"spearman", "pearson"}
    assert found[-1]["dev"]["pearson"] > 80
    assert losses[-1] < 0.1


def test_evaluation_does_not_depend_on_the_order_of_rows(prepared):
    engine, scores = run(prepared, replace(CONFIG, epochs=1, dropout=0.1))
    _, task, sets = prepared
    texts, examples = sets["dev"]
    order = np.random.default_rng(0).permutation(len(texts.ids))
    shuffled = InputRows(
        [texts.ids[i] for i in order], [texts.second_starts[i] for i in order], texts.pad
    )
    first = [examples.first[i] for i in order]
    others = Examples(first, None, examples.labels[order])
    assert dev_scores(engine, task, shuffled, others) == scores[-1]["dev"]


class Stopped(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("step", [7, 8, 17])
def test_stopped_and_resumed_gives_the_same_bits(prepared, tmp_path, step):
    """Before and after the end of the first epoch, whose last step is the eighth, and later."""
    config = replace(CONFIG, epochs=3, dropout=0.1)
    whole, scores = run(prepared, config)

    def stop(done, _, __):
        if done == step:
            raise Stopped

    def saved(learning_rate=1):
        settings = {"learning_rate": learning_rate}
        return SavedRun(folder=tmp_path / "run", interval=2, settings=settings)

    with pytest.raises(Stopped):
        run(prepared, config, saved=saved(), report=stop)
    with pytest.raises(ValueError, match="its learning_rate is 1, here 2; name another"):
        run(prepared, config, saved=saved(2))
    steps = []
    resumed, same = run(
        prepared, config, saved=saved(), report=lambda done, _, __: steps.append(done)
    )
    assert steps[0] == (step - 1) // 2 * 2 + 1
    assert same == scores
    for get in ("whole_weights", "whole_optimizer_state"):
        expected = gather_all(getattr(whole, get)())
        for name, tensor in gather_all(getattr(resumed, get)()).items():
            assert torch.equal(tensor, expected[name]), name


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="a BERT is needed here"):
        read_bert(save_run(tmp_path / "gpt", make_gpt(GPT2), make_tokenizer()))
    run = save_bert_run(tmp_path / "run")
    (run / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="give --tokenizer-file"):
        read_bert(run)
    make_tokenizer().save(run / "tokenizer.json")
    with pytest.raises(ValueError, match="they do not belong together"):
        read_bert(run)
    for field, value in (("epochs", 0), ("dropout", 1.0), ("max_length", 8)):
        with pytest.raises(ValueError, match="must be"):
            FinetuningConfig(**{field: value})


def test_a_rate_by_layer_tokens_is_refused(prepared):
    config = json.loads(json.dumps(RANDOM_LTD))
    dropping = config["data_efficiency"]["data_routing"]["random_ltd"]
    dropping["layer_token_lr_schedule"] = {
        "enabled": True,
        "warmup_layer_tokens": 10,
        "total_layer_tokens": 100,
    }
    with pytest.raises(ConfigError, match="finetuning's learning rate follows steps: disable it"):
        run(prepared, json_config=config)
