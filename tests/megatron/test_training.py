import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.run_state import Task
from megatron.training import evaluate, make_optimizer, setup_model_and_optimizer, train_step

SEQ_LENGTH = 16


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("corpus") / "corpus")
    lengths = np.full(60, 50, np.int32)
    tokens = np.random.default_rng(0).integers(0, 100, lengths.sum()).astype(np.uint16)
    with IndexedDatasetWriter(path, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, lengths)
    return path


def settings(prefix, *flags):
    return parse_run_config(
        "",
        [
            *("--data-path", prefix, "--split", "8,2,0", "--seq-length", str(SEQ_LENGTH)),
            *("--num-layers", "2", "--hidden-size", "32", "--num-attention-heads", "2"),
            *("--vocab-size", "128", "--max-position-embeddings", str(SEQ_LENGTH)),
            *("--train-iters", "6", "--micro-batch-size", "4", "--global-batch-size", "8"),
            *flags,
        ],
    )


def make_run(config, task=pretrain_gpt.TASK):
    return setup_model_and_optimizer(config, task, *task.make_datasets(config))


def step(run):
    loader = iter(run.engine.training_dataloader)
    batches = [next(loader) for _ in range(run.engine.gradient_accumulation_steps())]
    return train_step(run, batches)


def test_the_loss_does_not_depend_on_the_split_into_micro_batches(prefix):
    whole = make_run(settings(prefix, "--micro-batch-size", "8"))
    parts = make_run(settings(prefix, "--micro-batch-size", "2"))
    for _ in range(3):
        left, right = step(whole), step(parts)
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)
        assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
    for a, b in zip(whole.engine.parameters(), parts.engine.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert whole.counters == parts.counters


def test_micro_batches_with_unequal_numbers_of_labels_weigh_by_tokens(prefix):
    """A mean of the micro-batches' means would give another loss and other gradients."""

    def mask_labels(batch):
        labels = batch["labels"].clone()
        # Rows keep 1 to SEQ_LENGTH labels, by their first token.
        kept = 1 + batch["tokens"][:, :1] % SEQ_LENGTH
        labels[torch.arange(SEQ_LENGTH)[None] >= kept] = -100
        return labels

    task: Task = replace(
        pretrain_gpt.TASK,
        forward_step=lambda engine, batch: engine(batch["tokens"], labels=mask_labels(batch)),
        count_loss_tokens=lambda batch: int((mask_labels(batch) != -100).sum()),
    )
    whole = make_run(settings(prefix, "--micro-batch-size", "8"), task)
    parts = make_run(settings(prefix, "--micro-batch-size", "1"), task)
    left, right = step(whole), step(parts)
    assert left["loss"] == pytest.approx(right["loss"], abs=1e-6)
    assert left["grad_norm"] == pytest.approx(right["grad_norm"], rel=1e-4)
    assert whole.counters.loss_tokens == parts.counters.loss_tokens < 8 * SEQ_LENGTH


def test_training_learns_and_logs(prefix, tmp_path, capsys):
    flags = [
        *("--data-path", prefix, "--split", "8,2,0", "--seq-length", str(SEQ_LENGTH)),
        *("--num-layers", "2", "--hidden-size", "32", "--num-attention-heads", "2"),
        *("--vocab-size", "128", "--max-position-embeddings", str(SEQ_LENGTH)),
        *("--train-iters", "30", "--micro-batch-size", "8", "--lr", "1e-2", "--log-interval", "5"),
        *("--eval-interval", "20", "--eval-iters", "0", "--save", str(tmp_path / "run")),
        *("--save-interval", "10", "--keep-last", "2", "--bf16", "--recompute-activations"),
    ]
    assert pretrain_gpt.main(flags) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [5, 10, 15, 20, 25, 30]
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [20, 30]
    assert train[-1]["loss"] < train[0]["loss"]
    assert train[-1]["corpus_tokens"] == 30 * 8 * SEQ_LENGTH == train[-1]["effective_tokens"]
    assert lines[0]["num_parameters"] == 128 * 32 + SEQ_LENGTH * 32 + 2 * 12704 + 64
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("global_step*"))
    assert checkpoints == ["global_step20", "global_step30"]
    output = capsys.readouterr().out
    assert output.startswith(f"{lines[0]['num_parameters']:,} parameters | 149 training and ")
    assert "stopped after step 30: --train-iters (30)" in output
    assert "validation at step 30" in output


def test_budgets_by_tokens_and_samples(prefix, capsys):
    base = [
        *("--data-path", prefix, "--split", "8,2,0", "--seq-length", str(SEQ_LENGTH)),
        *("--num-layers", "1", "--hidden-size", "16", "--num-attention-heads", "1"),
        *("--vocab-size", "128", "--max-position-embeddings", str(SEQ_LENGTH)),
        *("--micro-batch-size", "4", "--eval-iters", "1"),
    ]
    for budget, amount in (("--train-tokens", 5 * 4 * SEQ_LENGTH), ("--train-samples", 18)):
        assert pretrain_gpt.main([*base, budget, str(amount)]) == 0
        assert f"stopped after step 5: {budget} ({amount}" in capsys.readouterr().out


def test_evaluation_is_at_full_length_and_changes_nothing(prefix):
    run = make_run(settings(prefix, "--eval-iters", "0"))
    before = [p.clone() for p in run.engine.parameters()]
    record = evaluate(run)
    assert record["loss"] == pytest.approx(np.log(128), abs=0.2)
    assert record["perplexity"] == pytest.approx(np.exp(record["loss"]))
    with torch.no_grad():
        arrays = run.valid_dataset.get_batch(np.arange(len(run.valid_dataset)))
        tokens, labels = (torch.from_numpy(arrays[name]) for name in ("tokens", "labels"))
        expected = float(run.engine.module(tokens, labels=labels)) / labels.numel()
    assert record["loss"] == pytest.approx(expected, abs=1e-5)
    for a, b in zip(before, run.engine.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weight_decay_is_for_matrices_only(prefix):
    run = make_run(settings(prefix))
    optimizer = make_optimizer(run.engine.module, run.config.training)
    decayed, others = optimizer.param_groups
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in others["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(run.engine.module.parameters()))


def test_dropout_depends_on_seed_and_step_alone(prefix):
    config = settings(prefix, "--hidden-dropout", "0.5")
    first, second = make_run(config), make_run(config)
    torch.rand(7)
    left = step(first)["loss"]
    torch.rand(3)
    assert step(second)["loss"] == left
