import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import pretrain_gpt
from data_efficiency import IGNORED_LABEL
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.run_records import step_record
from megatron.tokenizer import NO_CHARACTER
from megatron.validation import validate
from tests.megatron.small_models import make_tokenizer
from tests.megatron.tiny_pretraining import SEQ_LENGTH, make_run, settings, write_corpus


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def step(run):
    batches = next(run.loader.steps())
    return step_record(run, run.engine.train_step(batches, run.loss_sums, run.loss_terms))


def labels_of_few_rows(batch):
    """Labels of the rows whose first token is below 30: micro-batches of one row often have none."""
    few = batch["tokens"][:, :1] < 30
    return torch.where(few, batch["labels"], IGNORED_LABEL)


def count_terms(batch):
    return int((labels_of_few_rows(batch) != IGNORED_LABEL).sum()), len(batch["tokens"])


def two_losses(engine, batch):
    """The cross entropy of few rows, and how far the first logit of each row is from 1."""
    logits = engine(batch["tokens"])
    labels = labels_of_few_rows(batch).flatten()
    cross_entropy = functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
    return cross_entropy, (logits[:, 0, 0] - 1).square().sum()


TWO_LOSSES = replace(
    pretrain_gpt.TASK, losses=("rare", "row"), forward_step=two_losses, count_loss_terms=count_terms
)


def test_each_loss_is_a_mean_over_its_own_terms_of_the_global_batch(prefix):
    whole = make_run(settings(prefix, "--micro-batch-size", "8"), TWO_LOSSES)
    parts = make_run(settings(prefix, "--micro-batch-size", "1"), TWO_LOSSES)
    batch = next(iter(make_run(whole.config).engine.training_dataloader))
    counts = [
        count_terms({name: row[None] for name, row in zip(batch, rows, strict=True)})
        for rows in zip(*batch.values(), strict=True)
    ]
    assert {0, SEQ_LENGTH} == {tokens for tokens, _ in counts}
    sums = two_losses(whole.engine.module, batch)
    wanted = sum(total / terms for total, terms in zip(sums, count_terms(batch), strict=True))
    gradients = torch.autograd.grad(wanted, list(whole.engine.parameters()))
    left, right = step(whole), step(parts)
    assert left["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert left["grad_norm"] == pytest.approx(
        float(torch.nn.utils.get_total_norm(gradients)), rel=1e-4
    )
    for name, total, terms in zip(("rare", "row"), sums, count_terms(batch), strict=True):
        assert left[f"{name}_loss"] == pytest.approx(total.item() / terms, rel=1e-5)
        assert right[f"{name}_loss"] == pytest.approx(left[f"{name}_loss"], abs=1e-6)
    assert left["loss"] == left["rare_loss"] + left["row_loss"]
    assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
    assert whole.counters == parts.counters
    assert whole.counters.loss_tokens == count_terms(batch)[0]


def test_evaluation_has_each_loss_by_its_name(prefix, capsys):
    run = make_run(settings(prefix, "--eval-iters", "0"), TWO_LOSSES)
    record = validate(run)
    arrays = run.valid_dataset.get_batch(np.arange(len(run.valid_dataset)))
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        sums = two_losses(run.engine.module, batch)
    for name, total, terms in zip(("rare", "row"), sums, count_terms(batch), strict=True):
        assert record[f"{name}_loss"] == pytest.approx(float(total) / terms, rel=1e-5)
    assert record["perplexity"] == math.exp(record["rare_loss"])
    assert (
        f"(rare {record['rare_loss']:.4f}, row {record['row_loss']:.4f})" in capsys.readouterr().out
    )


def test_a_step_without_any_term_of_a_loss_trains_on_the_others(prefix):
    none = replace(
        TWO_LOSSES,
        forward_step=lambda engine, batch: (
            two_losses(engine, batch)[1] * 0,
            two_losses(engine, batch)[1],
        ),
        count_loss_terms=lambda batch: (0, len(batch["tokens"])),
    )
    record = step(make_run(settings(prefix), none))
    assert record["rare_loss"] == 0 < record["row_loss"] == record["loss"]
    assert record["grad_norm"] > 0


def test_evaluation_is_at_full_length_and_changes_nothing(prefix):
    run = make_run(settings(prefix, "--eval-iters", "0"))
    before = [p.clone() for p in run.engine.parameters()]
    record = validate(run)
    assert record["loss"] == pytest.approx(np.log(128), abs=0.2)
    assert record["perplexity"] == pytest.approx(np.exp(record["loss"]))
    with torch.no_grad():
        arrays = run.valid_dataset.get_batch(np.arange(len(run.valid_dataset)))
        tokens, labels = (torch.from_numpy(arrays[name]) for name in ("tokens", "labels"))
        expected = float(run.engine.module(tokens, labels=labels)) / labels.numel()
    assert record["loss"] == pytest.approx(expected, abs=1e-5)
    for a, b in zip(before, run.engine.parameters(), strict=True):
        assert torch.equal(a, b)


def test_bits_per_byte_are_all_nats_over_the_bytes_of_the_text(tmp_path):
    """Of documents that end with a control token, which costs nats and is no text."""
    texts = ["the cat sat on the mat", "naïve ☃ snow", "a dog ran after the cat\n"] * 20
    tokenizer = make_tokenizer()
    tokenizer.save(tmp_path / "tokenizer.json")
    rows = [np.array([*tokenizer.encode(text), tokenizer.eod], np.uint16) for text in texts]
    with IndexedDatasetWriter(str(tmp_path / "text"), np.dtype("uint16")) as writer:
        writer.add_documents(np.concatenate(rows), np.array(list(map(len, rows)), np.int32))
    flags = ("--vocab-size", "300", "--tokenizer-file", str(tmp_path / "tokenizer.json"))
    run = make_run(settings(str(tmp_path / "text"), "--eval-iters", "0", *flags))
    record = validate(run)
    labels = run.valid_dataset.get_batch(np.arange(len(run.valid_dataset)))["labels"]
    content = labels[labels != tokenizer.eod].tolist()
    text = tokenizer.decode(content)
    assert NO_CHARACTER not in text, "a character that is cut would count three bytes"
    assert (labels == tokenizer.eod).any()
    nats = record["loss"] * labels.size
    assert record["bits_per_byte"] == pytest.approx(
        nats / np.log(2) / len(text.encode()), rel=1e-12
    )
