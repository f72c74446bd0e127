import pytest
import torch
from torch import nn

from data_efficiency.accounting import Counters
from data_efficiency.config import load_config
from data_efficiency.engine.base import EngineBase, make_loader
from data_efficiency.engine.ranks import Ranks


class Side(EngineBase):
    """The least that an `EngineBase` needs."""

    def __init__(self, *, rank=0, size=1, accumulation=2):
        content = {
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": accumulation,
        }
        self._begin(load_config(content), Ranks(data_parallel_rank=rank, data_parallel_size=size))
        self.module = nn.Linear(3, 1)
        self.optimizer = self.lr_scheduler = None
        self.micro_steps = 0


def test_loaders_of_all_ranks_share_the_global_batch():
    config = load_config({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2})
    dataset = torch.arange(64)
    parts = []
    for rank in (0, 1):
        loader = iter(
            make_loader(dataset, config, Ranks(data_parallel_rank=rank, data_parallel_size=2), None)
        )
        parts += [next(loader), next(loader)]
    whole = load_config({"train_micro_batch_size_per_gpu": 16})
    (expected,) = [next(iter(make_loader(dataset, whole, Ranks(), None)))]
    assert torch.equal(torch.cat(parts), expected)


def test_progress_with_another_accumulation():
    side = Side()
    side.global_steps, side.micro_steps = 3, 6
    other = Side(accumulation=4)
    other.load_progress_state(side.progress_state())
    assert (other.global_steps, other.micro_steps) == (3, 12)
    assert other.counters == side.counters
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


def test_progress_written_before_the_engine_counted():
    side = Side()
    old = {"global_steps": 5, "loader": None, "lr_scheduler": None, "skipped_steps": 1}
    side.load_progress_state(old)
    assert (side.counters, side.skipped_steps) == (Counters(steps=5), 1)
    old["lr_scheduler"] = {"state": {"layer_tokens": 640, "base_rates": [0.1]}, "rates": [0.1]}
    side.load_progress_state(old)
    assert side.counters == Counters(steps=5, layer_tokens=640)
