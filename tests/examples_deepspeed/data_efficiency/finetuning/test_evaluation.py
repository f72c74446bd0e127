import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from examples_deepspeed.data_efficiency.finetuning.evaluation import evaluate, progress_line
from examples_deepspeed.data_efficiency.finetuning.task import Task

RECORD = {
    "epoch": 2,
    "micro_batches": 8,
    "steps": 4,
    "consumed_token": 640,
    "validation": 12.5,
    "best_validation": 12.25,
    "all_seconds": 36.0,
    "training_seconds": 30.0,
    "kept_length": 24,
    "training_loss": None,
    "learning_rate": 5e-5,
    "corpus_tokens": 1024,
    "layer_tokens": 7680,
}


class Numbers:
    """Row i holds the number i; what was asked for is written down."""

    def __init__(self, num_rows):
        self.num_rows, self.seen = num_rows, []

    def __len__(self):
        return self.num_rows

    def get_batch(self, samples, visits):
        assert not visits.any()
        self.seen.append(samples.tolist())
        return {"rows": torch.from_numpy(samples.astype(np.float32))}


def mean_task(eval_batch_size):
    return Task(
        num_layers=1,
        num_samples=1,
        length=1,
        loss=None,
        shape=None,
        scores=lambda _, batch: torch.stack([batch["rows"], torch.ones_like(batch["rows"])], 1),
        quality=lambda sums: (sums[0], sums[1]),
        quality_name="mean",
        higher_is_better=True,
        validation=None,
        test=None,
        eval_batch_size=eval_batch_size,
    )


def engine_of(rank, size):
    nothing = SimpleNamespace(dp_world_size=size, global_rank=rank, device="cpu")
    nothing.eval = lambda: None
    return nothing


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_counts_once(num_rows, size):
    """Processes see as many batches as each other, or a collective would wait for ever."""
    parts, batches = [], []
    for rank in range(size):
        numbers = Numbers(num_rows)
        parts.append(evaluate(engine_of(rank, size), mean_task(2), numbers))
        batches.append([len(batch) for batch in numbers.seen])
    assert np.sum(parts, axis=0).tolist() == [sum(range(num_rows)), num_rows]
    assert all(batch == batches[0] for batch in batches)


def test_line_has_the_published_figures_and_a_time_left():
    published, beside = progress_line(RECORD, "perplexity", 0.25).split(" | ")
    assert published == (
        "epoch 2 step 8 consumed_token 640 perplexity 12.5000 best perplexity 12.2500 time 0.0100 hr "
        "reserved_length 24"
    )
    assert re.search(r"25 % done, 1\.8 min left$", beside)
    assert "training loss" not in beside


def test_line_before_the_first_step_and_behind_the_last():
    assert progress_line(RECORD, "perplexity", 0.0).endswith("0 % done, 0.0 min left")
    more = RECORD | {"training_loss": 2.0}
    line = progress_line(more, "perplexity", 1.02)
    assert line.endswith("100 % done, 0.0 min left")
    assert "training loss 2.0000" in line
