from dataclasses import replace

import numpy as np
import pytest
import torch

from data_efficiency import ConfigError
from data_efficiency.engine.whole_tensor import gather_all
from megatron.arguments import parse_run_config
from megatron.finetuning.classifier import read_bert
from megatron.finetuning.data import Examples, read_task
from megatron.finetuning.inputs import InputRows, make_rows
from megatron.finetuning.tasks import GLUE
from megatron.finetuning.training import dev_scores, make_classifier, make_run, train
from megatron.nested_keys import copied
from megatron.reporting import read_log
from tests.megatron.finetuning.bert_task_data import (
    DROPPING,
    finetuned,
    glue_config,
    save_bert_run,
    write_sentiment,
)
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    model, tokenizer = read_bert(save_bert_run(folder / "run"))
    task, examples = read_task(write_sentiment(folder / "data"), "SST-2")
    sets = {name: (make_rows(part, tokenizer, 32), part) for name, part in examples.items()}
    return model, task, sets


def weights_of(run):
    return gather_all(run.engine.whole_weights())


def losses_of(log):
    return [record["loss"] for record in log.train]


def test_it_learns_and_repeats_itself(prepared, tmp_path):
    first, log = finetuned(prepared, glue_config(tmp_path / "a"))
    assert [record["step"] for record in log.train] == list(range(1, 97))
    assert [record["step"] for record in log.valid][:3] == [8, 16, 24]
    assert log.valid[-1]["dev accuracy"] == 100
    assert losses_of(log)[-1] < 0.1 < losses_of(log)[0]
    again, same = finetuned(prepared, glue_config(tmp_path / "b"))
    assert losses_of(same) == losses_of(log)
    for name, weight in weights_of(again).items():
        assert torch.equal(weight, weights_of(first)[name])
    other, _ = finetuned(prepared, glue_config(tmp_path / "c", seed=2))
    assert not torch.equal(
        weights_of(other)["output_layer.weight"], weights_of(first)["output_layer.weight"]
    )


def test_the_pretraining_heads_stay(prepared, tmp_path):
    trained, _ = finetuned(prepared, glue_config(tmp_path))
    before, after = prepared[0].weights, trained.engine.module.bert.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    heads = {name for name in before if name.startswith(("masked_lm_head", "sentence_head"))}
    padding = {"language_model.position_embeddings.weight"}
    assert heads <= same <= heads | padding


def test_a_last_batch_with_fewer_rows_is_exact_however_it_is_divided(prepared, tmp_path):
    """11 examples in batches of 8: the second one's loss is the mean of three rows."""
    _, task, sets = prepared
    texts, examples = sets["train"]
    fewer = InputRows(texts.ids[:11], texts.second_starts[:11], texts.pad)
    sets = {"train": (fewer, examples.first_rows(11)), "dev": sets["dev"]}
    small, more = (prepared[0], task, sets), {"epochs": 2, "group_by_length": True}
    run, whole = finetuned(small, glue_config(tmp_path / "a", **more))
    assert len(whole.train) == 4
    _, divided = finetuned(small, glue_config(tmp_path / "b", micro_batch_size=2, **more))
    assert losses_of(divided) == pytest.approx(losses_of(whole), abs=1e-6)
    assert run.counters.loss_tokens == run.counters.consumed_samples == 2 * 11
    assert [record["epoch"] for record in whole.valid] == [2, 3]
    assert run.counters.corpus_tokens < 2 * 8 * max(map(len, fewer.ids)) * 2


def test_random_ltd_drops_tokens_in_training_only(prepared, tmp_path):
    plain, _ = finetuned(prepared, glue_config(tmp_path / "a"))
    config = glue_config(tmp_path / "b", section=DROPPING, random_ltd=True)
    dropped, log = finetuned(prepared, config)
    layers = (weights_of(run)["output_layer.weight"] for run in (dropped, plain))
    assert not torch.allclose(*layers, atol=1e-3)
    _, task, sets = prepared
    scores = dev_scores(dropped.engine, task, *sets["dev"])
    assert scores == {"accuracy": log.valid[-1]["dev accuracy"]}
    assert dropped.counters.layer_tokens < 4 * dropped.counters.corpus_tokens


def test_real_values_are_not_rounded(prepared, tmp_path):
    model, _, sets = prepared
    texts, examples = sets["train"]
    # Floored or rounded they would all be 1.
    scores = 1.1 + 0.3 * examples.labels
    sets = {name: (texts, Examples(examples.first, None, scores)) for name in ("train", "dev")}
    _, log = finetuned((model, GLUE["STS-B"], sets), glue_config(tmp_path, epochs=20))
    assert [one["name"] for one in log.start["measures"]] == ["dev spearman", "dev pearson"]
    assert log.valid[-1]["dev pearson"] > 80
    assert losses_of(log)[-1] < 0.1


def test_evaluation_does_not_depend_on_the_order_of_rows(prepared, tmp_path):
    run, log = finetuned(prepared, glue_config(tmp_path, epochs=1, dropout=0.1))
    _, task, sets = prepared
    texts, examples = sets["dev"]
    order = np.random.default_rng(0).permutation(len(texts.ids))
    shuffled = InputRows(
        [texts.ids[i] for i in order], [texts.second_starts[i] for i in order], texts.pad
    )
    first = [examples.first[i] for i in order]
    others = Examples(first, None, examples.labels[order])
    found = dev_scores(run.engine, task, shuffled, others)
    assert found == {"accuracy": log.valid[-1]["dev accuracy"]}


class Stopped(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("step", [7, 8, 17])
def test_stopped_and_resumed_gives_the_same_bits(prepared, tmp_path, step):
    """Before and after the end of the first epoch, whose last step is the eighth, and later."""
    model, task, sets = prepared
    more = {"epochs": 3, "dropout": 0.1, "save_interval": 2}
    whole, expected = finetuned(prepared, glue_config(tmp_path / "whole", **more))
    config = glue_config(tmp_path / "run", **more)

    def stop_at(run):
        original = run.engine.train_step

        def train_step(*arguments, **settings):
            if run.counters.steps == step - 1:
                raise Stopped
            return original(*arguments, **settings)

        run.engine.train_step = train_step

    with pytest.raises(Stopped):
        finetuned(prepared, config, stop_at)
    other = replace(config, training=replace(config.training, lr=1.0))
    with pytest.raises(ValueError, match=r"its lr is 0\.003, here 1\.0; name another"):
        finetuned(prepared, other)
    resumed = make_run(config, make_classifier(config, model, task), task, sets, {})
    assert train(config, resumed, task, sets) == 0
    log = read_log(tmp_path / "run")
    assert log.resumed[0]["step"] == (step - 1) // 2 * 2
    assert losses_of(log) == losses_of(expected)
    assert [one["dev accuracy"] for one in log.valid] == [
        one["dev accuracy"] for one in expected.valid
    ]
    for get in ("whole_weights", "whole_optimizer_state"):
        wanted = gather_all(getattr(whole.engine, get)())
        for name, tensor in gather_all(getattr(resumed.engine, get)()).items():
            assert torch.equal(tensor, wanted[name]), name


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
    for flag, value in (("--epochs", "0"), ("--dropout", "1.0"), ("--max-length", "8")):
        words = ["--pretrained", "x", "--data", "x", "--task", "rte", flag, value]
        with pytest.raises(ValueError, match=f"{flag} is .*: must be"):
            parse_run_config("", words, architecture="bert_finetuning")


def test_a_rate_by_layer_tokens_is_refused(prepared, tmp_path):
    section = copied(DROPPING)
    section["data_routing"]["random_ltd"]["layer_token_lr_schedule"] = {
        "enabled": True,
        "warmup_layer_tokens": 10,
        "total_layer_tokens": 100,
    }
    with pytest.raises(ConfigError, match="finetuning's learning rate follows steps: disable it"):
        finetuned(prepared, glue_config(tmp_path, section=section, random_ltd=True))
