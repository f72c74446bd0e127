from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron.finetuning.classifier import BertClassifier, read_bert
from megatron.finetuning.data import Examples, read_task
from megatron.finetuning.inputs import InputRows, make_rows
from megatron.finetuning.tasks import GLUE
from megatron.finetuning.training import FinetuningConfig, dev_scores, finetune
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


def run(prepared, config=CONFIG, *, seed=1, learning_rate=3e-3, **more):
    model, task, sets = prepared
    classifier = BertClassifier(model, 2, dropout=config.dropout, seed=seed)
    scores = finetune(
        classifier, task, sets, config, seed=seed, learning_rate=learning_rate, **more
    )
    return classifier, scores


def test_it_learns_and_repeats_itself(prepared):
    losses = []
    first, scores = run(prepared, report=lambda *values: losses.append(values))
    assert [values[:2] for values in losses] == [(i, 96) for i in range(1, 97)]
    assert scores[-1]["dev"]["accuracy"] == 100
    assert losses[-1][2] < 0.1 < losses[0][2]
    again, same = run(prepared)
    assert same == scores
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, first.state_dict()[name])
    other, _ = run(prepared, seed=2)
    assert not torch.equal(other.output_layer.weight, first.output_layer.weight)


def test_the_pretraining_heads_stay(prepared):
    trained, _ = run(prepared)
    before, after = prepared[0].weights, trained.bert.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    heads = {name for name in before if name.startswith(("masked_lm_head", "sentence_head"))}
    padding = {"language_model.position_embeddings.weight"}
    assert heads <= same <= heads | padding


def test_micro_batches_give_the_same_training(prepared):
    whole, _ = run(prepared)
    parts, _ = run(prepared, replace(CONFIG, micro_batch_size=3))
    torch.testing.assert_close(
        parts.output_layer.weight, whole.output_layer.weight, rtol=1e-3, atol=1e-3
    )


def test_random_ltd_drops_tokens_in_training_only(prepared):
    plain, _ = run(prepared)
    dropped, scores = run(prepared, random_ltd=RANDOM_LTD)
    assert not torch.allclose(dropped.output_layer.weight, plain.output_layer.weight, atol=1e-3)
    _, task, sets = prepared
    assert dev_scores(dropped, task, *sets["dev"]) == scores[-1]["dev"]
    kept = dropped.random_ltd_scheduler.kept_length(31, 32)
    assert kept == 4


def test_real_values_are_not_rounded(prepared):
    model, _, sets = prepared
    rows, examples = sets["train"]
    # Floored or rounded they would all be 1.
    scores = 1.1 + 0.3 * examples.labels
    sets = {name: (rows, Examples(examples.first, None, scores)) for name in ("train", "dev")}
    classifier = BertClassifier(model, 1, dropout=0.0, seed=0)
    config = replace(CONFIG, epochs=20)
    losses = []
    found = finetune(
        classifier,
        GLUE["STS-B"],
        sets,
        config,
        seed=0,
        learning_rate=3e-3,
        report=lambda _, __, loss: losses.append(loss),
    )
    assert set(found[-1]["dev"]) == {"spearman", "pearson"}
    assert found[-1]["dev"]["pearson"] > 80
    assert losses[-1] < 0.1


def test_evaluation_does_not_depend_on_the_order_of_rows(prepared):
    model, task, sets = prepared
    classifier = BertClassifier(model, 2, dropout=0.1, seed=0)
    rows, examples = sets["dev"]
    order = np.random.default_rng(0).permutation(len(rows.ids))
    shuffled = InputRows(
        [rows.ids[i] for i in order], [rows.second_starts[i] for i in order], rows.pad
    )
    first = [examples.first[i] for i in order]
    other = dev_scores(classifier, task, shuffled, Examples(first, None, examples.labels[order]))
    assert other == dev_scores(classifier, task, rows, examples)


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
