"""Values of rows travel with a step, in the order of the global batch, and samples follow them."""

import numpy as np
import pytest
import torch
from torch import nn

from data_efficiency.engine import initialize
from data_efficiency.json_section import ConfigError

FEEDBACK = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}


class Rows:
    """Rows of which each has another loss."""

    def __len__(self):
        return 24

    def get_batch(self, samples, _visits=None):
        return {"x": torch.as_tensor(samples, dtype=torch.float32)[:, None].repeat(1, 3) / 24}


def make_engine(*, feedback=True):
    torch.manual_seed(0)
    sampling = {"feedback": FEEDBACK} if feedback else {}
    config = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 2,
        "data_efficiency": {"data_sampling": sampling},
    }
    return initialize(
        model=nn.Linear(3, 1),
        training_data=Rows(),
        config=config,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )


def train(engine, loader, num_steps, *, notes=True):
    """(samples, values) of each step."""
    found = []

    def loss_sums(batch):
        losses = engine(batch["x"]).square().squeeze(1)
        if notes:
            engine.note_rows(losses)
        return losses.sum()

    for batches in loader.steps():
        result = engine.train_step(
            batches,
            loss_sums,
            lambda batch: len(batch["x"]),
            shape=lambda batch: (len(batch["x"]), 1),
        )
        found.append((loader.plan.batch.samples.tolist(), result.row_values))
        if len(found) == num_steps:
            return found
    return found


def test_the_step_gives_the_values_of_all_rows_in_their_order():
    engine, _, loader, _ = make_engine(feedback=False)
    with torch.no_grad():
        expected = {
            sample: engine.module(row[None]).square().item()
            for sample, row in enumerate(Rows().get_batch(np.arange(24))["x"])
        }
    ((samples, values),) = train(engine, loader, 1)
    assert values.tolist() == pytest.approx([expected[sample] for sample in samples], rel=1e-5)
    ((_, nothing),) = train(engine, loader, 1, notes=False)
    assert nothing is None


def test_samples_follow_them_and_a_resume_goes_on():
    engine, _, loader, _ = make_engine()
    whole = train(engine, loader, 12)
    first, _, loader, _ = make_engine()
    train(first, loader, 5)
    second, _, loader, _ = make_engine()
    second.module.load_state_dict(first.module.state_dict())
    second.load_progress_state(first.progress_state())
    rest = train(second, loader, 7)
    assert [samples for samples, _ in rest] == [samples for samples, _ in whole[5:]]
    # The last round draws from half of the rows, those of the highest losses known before it.
    known = {}
    for samples, values in whole[:10]:
        known |= dict(zip(samples, np.float32(values).tolist(), strict=True))
    best = sorted(known, key=lambda sample: (-known[sample], sample))[:12]
    assert {sample for samples, _ in whole[10:] for sample in samples} <= set(best)


def test_values_that_are_missing_are_an_error_and_nothing_is_learned():
    engine, _, loader, _ = make_engine()
    before = engine.module.weight.detach().clone()
    with pytest.raises(
        ConfigError, match=r"0 values were noted for 8 samples: give engine.note_rows"
    ):
        train(engine, loader, 1, notes=False)
    assert torch.equal(engine.module.weight, before)
    assert engine.counters.steps == 0
