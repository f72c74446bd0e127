import argparse
import json
import re

import numpy as np
import pytest
import torch

from data_efficiency import Ranks, initialize
from examples_deepspeed.data_efficiency.finetuning import run as module
from examples_deepspeed.data_efficiency.finetuning.recipe import add_run_flags, each_variant
from examples_deepspeed.data_efficiency.finetuning.run import (
    FinetuningRun,
    layers_alone,
    mean_over,
    progress_of,
    whole_copies,
)

NUM_SAMPLES, LENGTH = 12, 4


class Points:
    """A row of four numbers that depend on the sample."""

    identity = {"type": "Points", "num_samples": NUM_SAMPLES}

    def __init__(self, num_rows=NUM_SAMPLES):
        self.num_rows, self.seen = num_rows, []

    def __len__(self):
        return self.num_rows

    def get_batch(self, samples, _visits):
        self.seen.append(len(samples))
        return {"rows": torch.tensor(samples).float()[:, None] / NUM_SAMPLES + torch.arange(4.0)}


def make_engine(num_epochs=1000):
    torch.manual_seed(0)
    sampling = {"num_epochs": num_epochs}
    return initialize(
        model=torch.nn.Linear(4, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        training_data=Points(),
        config={"train_batch_size": 4, "data_efficiency": {"data_sampling": sampling}},
        model_shape=layers_alone(2),
    )[0]


def make_run(folder, *flags, seed=0, budget=("steps", 6), data=None):
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    recipe = folder / "recipe.json"
    recipe.write_text("{}")
    given = ["--recipe", str(recipe), "--save", str(folder / "runs"), "--eval-interval", "4"]
    given += ["--save-interval", "2", "--learning-rate", "0.05", "--lr-decay", "linear", *flags]
    (arguments,) = each_variant(parser.parse_args(given))
    return FinetuningRun(
        arguments,
        seed,
        data or {},
        budget=budget,
        length=LENGTH,
        num_samples=NUM_SAMPLES,
        quality=("square", False),
    )


def train(run, engine):
    def squares(batch):
        return engine(batch["rows"]).square().sum(1)

    def ones(batch):
        return torch.ones(len(batch["rows"]))

    def quality():
        return mean_over(engine, Points(), 5, squares, ones)

    run.begin(engine)
    if not run.state["history"]:
        run.look(quality())
    for batches in run.batches():
        step = engine.train_step(
            batches,
            lambda batch: squares(batch).sum(),
            lambda batch: len(batch["rows"]),
            shape=lambda batch: tuple(batch["rows"].shape),
        )
        if run.add(step):
            run.look(quality())
        run.save_when_due()
    run.finish(quality())
    return json.loads((run.saved.folder / "results.json").read_text())


def test_trains_to_the_end_of_the_budget(tmp_path):
    results = train(make_run(tmp_path), make_engine())
    assert [record["steps"] for record in results["history"]] == [0, 4, 6]
    assert (results["steps"], results["samples"], results["corpus_tokens"]) == (6, 24, 96)
    assert (results["layer_tokens"], results["consumed_token"]) == (2 * 96, 96)
    assert results["validation"] == results["test"] < results["history"][0]["validation"]
    assert results["history"][-1]["learning_rate"] == pytest.approx(0.05 / 6)
    folder = tmp_path / "runs" / "both" / "seed0"
    assert [path.name for path in folder.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("unit", "amount"), [("steps", 6), ("consumed_token", 90), ("layer_tokens", 180)]
)
def test_the_rate_falls_with_the_budget_whatever_it_counts(tmp_path, unit, amount):
    run = make_run(tmp_path, "--warmup-steps", "2", budget=(unit, amount))
    run.begin(make_engine())
    rate, counters = run.engine.learning_rate, run.engine.counters
    spent = [counters.at(rate.clock, 2), amount / 2, amount]
    assert [rate.at(value) for value in spent][0::2] == [0.025, 0.0]
    assert rate.warmup / rate.share == 2


def test_finished_run_is_known_by_its_description(tmp_path):
    assert not make_run(tmp_path).is_finished()
    train(make_run(tmp_path), make_engine())
    assert make_run(tmp_path).is_finished()
    with pytest.raises(ValueError, match="of another run: its data_identity is .*; name another"):
        make_run(tmp_path, data={"n": 3}).is_finished()


def test_another_run_that_was_stopped_is_refused_before_its_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="the data ends at step 3 before .* raise num_epochs"):
        train(make_run(tmp_path), make_engine(num_epochs=1))
    engine = make_engine()
    before = whole_copies(engine)["weight"]
    with pytest.raises(ValueError, match="of another run: its learning_rate is 0.05, here 0.1"):
        make_run(tmp_path, "--learning-rate", "0.1").begin(engine)
    assert torch.equal(whole_copies(engine)["weight"], before)


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (["--engine", "deepspeed"], True),
        (["--save-interval", "3"], True),
        (["--seeds", "1", "2"], True),
        (["--learning-rate", "0.5"], False),
        (["--eval-interval", "3"], False),
        (["--bf16"], False),
    ],
)
def test_what_makes_a_run_another(tmp_path, flags, same):
    settings = [make_run(tmp_path, *more).saved.settings for more in ([], flags)]
    assert (settings[0] == settings[1]) == same


@pytest.mark.parametrize("num_rows", [1, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_counts_once(num_rows, size, monkeypatch):
    """Processes see as many batches as each other, or a collective would wait for ever."""
    parts, batches = [], []

    def gathered(_ranks, sums, terms):
        parts.append((sums[0], terms[0]))
        return [0.0]

    monkeypatch.setattr(module, "mean_losses_over", gathered)
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
            lambda batch: batch["rows"][:, 0] * NUM_SAMPLES,
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
