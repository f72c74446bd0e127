import numpy as np
import pytest
import torch

from data_efficiency import Ranks
from megatron.finetuning import foreign_model
from megatron.finetuning.foreign_model import means_over
from tests.megatron.finetuning.points import SIZE, Points, config_of, run_of


@pytest.mark.parametrize("unit", ["steps", "consumed_token", "layer_tokens"])
def test_the_rate_falls_with_the_budget_whatever_it_counts(tmp_path, unit):
    run = run_of(config_of(tmp_path, budget=unit, lr_warmup_iters=2))
    amount, rate, counters = run.task.budget[1], run.engine.learning_rate, run.engine.counters
    end = amount / 2 if unit == "layer_tokens" and rate.clock != "layer" else amount
    assert [rate.at(value) for value in (counters.at(rate.clock, 2), end)] == [0.025, 0.0]
    assert rate.warmup / rate.share == 2


@pytest.mark.parametrize("num_rows", [1, 7, 12])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_counts_once(num_rows, size, monkeypatch):
    """Processes see as many batches as each other, or a collective would wait for ever."""
    parts, batches = [], []

    def gathered(_ranks, sums, terms):
        parts.append((*sums, *terms))
        return [0.0, 0.0]

    monkeypatch.setattr(foreign_model, "mean_losses_over", gathered)
    for rank in range(size):

        class OneOfSeveral:
            ranks = Ranks(data_parallel_rank=rank, data_parallel_size=size)

            def eval(self):
                """Nothing is trained here."""

        points = Points(num_rows)
        means_over(
            OneOfSeveral(),
            points,
            2,
            lambda batch: [batch["rows"][:, 0] * SIZE.num_samples, batch["rows"][:, 0] * 0 + 1],
            lambda batch: torch.ones(len(batch["rows"])),
        )
        batches.append(points.seen)
    wanted = [sum(range(num_rows)), num_rows, num_rows, num_rows]
    assert np.sum(parts, axis=0) == pytest.approx(wanted, rel=1e-6)
    assert all(batch == batches[0] for batch in batches)
