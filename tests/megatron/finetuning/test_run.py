import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_efficiency import Ranks, initialize
from megatron.config import (
    FinetuningCheckpointConfig,
    FinetuningConfig,
    LoggingConfig,
    PretrainedConfig,
    TextDataConfig,
    TextRunConfig,
)
from megatron.finetuning import foreign_model
from megatron.finetuning.foreign_model import (
    learning_rate_of,
    make_optimizer,
    mean_over,
    task_of,
    whole_copies,
)
from megatron.finetuning.run import FinetuningRun, progress_of
from megatron.finetuning.run_folder import is_finished, saved_run
from megatron.finetuning.section import RunSize
from megatron.reporting import read_log

SIZE = RunSize(num_layers=2, length=4, num_samples=12)


class Points:
    """A row of four numbers that depend on the sample."""

    identity = {"type": "Points", "num_samples": SIZE.num_samples}

    def __init__(self, num_rows=SIZE.num_samples):
        self.num_rows, self.seen = num_rows, []

    def __len__(self):
        return self.num_rows

    def get_batch(self, samples, _visits):
        self.seen.append(len(samples))
        rows = torch.tensor(samples).float()[:, None] / SIZE.num_samples
        return {"rows": rows + torch.arange(4.0)}


def config_of(folder, **training):
    settings = {"epochs": 2, "lr": 0.05, "lr_decay_style": "linear", "eval_interval": 4}
    return TextRunConfig(
        model=PretrainedConfig(pretrained="model"),
        data=TextDataConfig(text="text"),
        training=FinetuningConfig(**settings | training),
        checkpoint=FinetuningCheckpointConfig(save=str(folder), save_interval=2),
        logging=LoggingConfig(log_interval=1),
    )


def run_of(config, num_epochs=1000):
    torch.manual_seed(0)
    sampling = {"num_epochs": num_epochs}
    engine = initialize(
        model=torch.nn.Linear(4, 1),
        optimizer=lambda parameters: make_optimizer(config.training, parameters),
        training_data=Points(),
        config={"train_batch_size": 4, "data_efficiency": {"data_sampling": sampling}},
        model_shape=SIZE.shape,
    )[0]
    task = task_of(
        config, SIZE, Points.identity, "square", higher_is_better=False, quality="square"
    )
    rate = learning_rate_of(config.training, SIZE, task.budget)
    return FinetuningRun(config, task, engine, rate, "weights")


def train(run, **more):
    def squares(batch):
        return run.engine(batch["rows"]).square().sum(1)

    def quality(part):
        ones = lambda batch: torch.ones(len(batch["rows"]))  # noqa: E731
        return {f"{part} square": mean_over(run.engine, Points(), 5, squares, ones)}

    return run.train(
        lambda batch: squares(batch).sum(),
        lambda batch: len(batch["rows"]),
        lambda: quality("validation"),
        at_end=lambda: quality("test"),
        shape=lambda batch: tuple(batch["rows"].shape),
        **more,
    )


def test_trains_to_the_end_of_the_budget(tmp_path):
    assert train(run_of(config_of(tmp_path, optimizer="sgd"))) == 0
    log = read_log(tmp_path)
    assert [record["steps"] for record in log.valid] == [0, 4, 6]
    first, _, last = log.valid
    assert (last["steps"], last["samples"], last["corpus_tokens"]) == (6, 24, 96)
    assert (last["layer_tokens"], last["consumed_token"]) == (2 * 96, 96)
    assert last["validation"] == last["test square"] < first["validation"]
    assert last["learning_rate"] == pytest.approx(0.05 / 6)
    assert [record["step"] for record in log.train] == [1, 2, 3, 4, 5, 6]
    assert log.start["measures"][0]["name"] == "test square"
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "run.toml"}


@pytest.mark.parametrize("unit", ["steps", "consumed_token", "layer_tokens"])
def test_the_rate_falls_with_the_budget_whatever_it_counts(tmp_path, unit):
    run = run_of(config_of(tmp_path, budget=unit, lr_warmup_iters=2))
    amount, rate, counters = run.task.budget[1], run.engine.learning_rate, run.engine.counters
    end = amount / 2 if unit == "layer_tokens" and rate.clock != "layer" else amount
    assert [rate.at(value) for value in (counters.at(rate.clock, 2), end)] == [0.025, 0.0]
    assert rate.warmup / rate.share == 2


def test_a_finished_run_is_known_by_its_settings_and_data(tmp_path):
    config, identity = config_of(tmp_path), Points.identity
    assert not is_finished(config, identity)
    train(run_of(config))
    assert is_finished(config, identity)
    with pytest.raises(ValueError, match="of another run: its data_identity is .*; name another"):
        is_finished(config, {"n": 3})
    with pytest.raises(ValueError, match=r"its lr is 0\.05, here 0\.1"):
        is_finished(config_of(tmp_path, lr=0.1), identity)


def test_another_run_that_was_stopped_is_refused_before_its_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="the data ends at step 3 before .* raise num_epochs"):
        train(run_of(config_of(tmp_path), num_epochs=1))
    run = run_of(config_of(tmp_path, lr=0.1))
    before = whole_copies(run.engine)["weight"]
    with pytest.raises(ValueError, match=r"of another run: its lr is 0\.05, here 0\.1"):
        train(run)
    assert torch.equal(whole_copies(run.engine)["weight"], before)


def test_out_of_time_it_is_saved_and_goes_on_to_the_same_numbers(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(run_of(config_of(whole))) == 0
    status = train(run_of(config_of(cut, exit_duration_in_mins=0.0)))
    assert status == 75
    assert (cut / "latest").read_text().strip() == "global_step1"
    assert train(run_of(config_of(cut))) == 0
    records = [read_log(folder).valid for folder in (whole, cut)]
    names = ("step", "validation", "training_loss", "learning_rate")
    assert [[r[name] for name in names] for r in records[0]] == [
        [r[name] for name in names] for r in records[1]
    ]
    assert [r["loss"] for r in read_log(cut).train] == [r["loss"] for r in read_log(whole).train]


@pytest.mark.parametrize(
    ("training", "checkpoint", "same"),
    [
        ({"deepspeed": True}, {}, True),
        ({"exit_duration_in_mins": 3.0}, {}, True),
        ({}, {"save_interval": 3}, True),
        ({"lr": 0.5}, {}, False),
        ({"eval_interval": 3}, {}, False),
        ({"bf16": True}, {}, False),
    ],
)
def test_what_makes_a_run_another(tmp_path, training, checkpoint, same):
    config = config_of(tmp_path, **training)
    other = replace(config, checkpoint=replace(config.checkpoint, **checkpoint))
    settings = [saved_run(one, {}).settings for one in (config_of(tmp_path), other)]
    assert (settings[0] == settings[1]) == same


@pytest.mark.parametrize("num_rows", [1, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_counts_once(num_rows, size, monkeypatch):
    """Processes see as many batches as each other, or a collective would wait for ever."""
    parts, batches = [], []

    def gathered(_ranks, sums, terms):
        parts.append((sums[0], terms[0]))
        return [0.0]

    monkeypatch.setattr(foreign_model, "mean_losses_over", gathered)
    for rank in range(size):

        class OneOfSeveral:
            ranks = Ranks(data_parallel_rank=rank, data_parallel_size=size)

            def eval(self):
                """Nothing is trained here."""

        points = Points(num_rows)
        mean_over(
            OneOfSeveral(),
            points,
            2,
            lambda batch: batch["rows"][:, 0] * SIZE.num_samples,
            lambda batch: torch.ones(len(batch["rows"])),
        )
        batches.append(points.seen)
    assert np.sum(parts, axis=0) == pytest.approx([sum(range(num_rows)), num_rows], rel=1e-6)
    assert all(batch == batches[0] for batch in batches)


RECORD = {
    "epoch": 2,
    "micro_batches": 8,
    "steps": 4,
    "consumed_token": 640,
    "corpus_tokens": 700,
    "layer_tokens": 2560,
    "validation": 12.5,
    "best_validation": 12.25,
    "training_loss": None,
    "kept_length": 24,
    "learning_rate": 1e-3,
    "training_seconds": 30.0,
    "all_seconds": 36.0,
}


def test_line_has_the_published_figures_and_a_time_left():
    published, beside = progress_of(RECORD, "perplexity", 0.25).split(" | ")
    assert published == (
        "epoch 2 step 8 consumed_token 640 perplexity 12.5000 best perplexity 12.2500 time 0.0100 hr "
        "reserved_length 24"
    )
    assert re.search(r"25 % done, 1\.8 min left$", beside)
    assert "training loss" not in beside


def test_line_before_the_first_step_and_behind_the_last():
    assert progress_of(RECORD, "perplexity", 0.0).endswith("0 % done, 0.0 min left")
    line = progress_of(RECORD | {"training_loss": 2.0}, "perplexity", 1.02)
    assert line.endswith("100 % done, 0.0 min left")
    assert "optimizer steps 4 training loss 2.0000 lr 1.00e-03 " in line
