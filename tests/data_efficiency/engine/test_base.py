import pytest
import torch
from torch import nn

from data_efficiency.config import load_config
from data_efficiency.engine.data_side import DataSide, make_loader
from data_efficiency.engine.processes import Processes


class Router:
    def __init__(self):
        self.calls = []

    def set_position(self, step, first_row, num_samples):
        assert num_samples == 4
        self.calls.append((step, first_row))


class Side(DataSide):
    """The least that a `DataSide` needs."""

    def __init__(self, *, rank=0, accumulation=2, loader=None):
        self.json_config = load_config({"train_micro_batch_size_per_gpu": 4})
        self.module = nn.Linear(3, 1)
        self.training_dataloader = loader
        self.optimizer = self.lr_scheduler = None
        self.random_ltd_scheduler = Router()
        self.global_steps = self.micro_steps = 0
        self._rank, self._micro_batch_size, self._accumulation = rank, 4, accumulation


def test_forwards_of_all_ranks_share_no_row():
    """Two ranks with two micro-batches cover the rows that one rank with four covers."""
    starts = []
    for rank, accumulation in ((0, 2), (1, 2)):
        side = Side(rank=rank, accumulation=accumulation)
        for side.micro_steps in range(accumulation):
            side._place_forward()
        starts += side.random_ltd_scheduler.calls
    alone = Side(accumulation=4)
    for alone.micro_steps in range(4):
        alone._place_forward()
    assert starts == alone.random_ltd_scheduler.calls == [(0, 0), (0, 4), (0, 8), (0, 12)]


def test_loaders_of_all_ranks_share_the_global_batch():
    config = load_config({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2})
    dataset = torch.arange(64)
    parts = []
    for rank in (0, 1):
        loader = iter(make_loader(dataset, config, Processes(rank=rank, size=2), None))
        parts += [next(loader), next(loader)]
    whole = load_config({"train_micro_batch_size_per_gpu": 16})
    (expected,) = [next(iter(make_loader(dataset, whole, Processes(), None)))]
    assert torch.equal(torch.cat(parts), expected)


def test_progress_with_another_accumulation():
    side = Side()
    side.global_steps, side.micro_steps = 3, 6
    other = Side(accumulation=4)
    other.load_progress_state(side.progress_state())
    assert (other.global_steps, other.micro_steps) == (3, 12)
    side.micro_steps = 7
    with pytest.raises(ValueError, match="whole only between steps"):
        side.progress_state()


def test_weights_of_another_model_are_refused():
    side = Side()
    side._check_fit(side.module.state_dict())
    with pytest.raises(ValueError, match=r"bias has shape \(4,\), here \(1,\)"):
        side._check_fit(nn.Linear(3, 4).state_dict())
    with pytest.raises(ValueError, match=r"bias has shape None, here \(1,\)"):
        side._check_fit(nn.Linear(3, 1, bias=False).state_dict())
