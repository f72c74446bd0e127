from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data_efficiency.accounting import StepShape, layer_tokens
from data_efficiency.config import LayerTokenLRConfig, RandomLTDConfig
from data_efficiency.routing.layer_token_lr import LayerTokenLR
from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.schedule import RootSchedule

CLOCK = LayerTokenLRConfig(total_layer_tokens=4000, warmup_layer_tokens=400)
SETTINGS = RandomLTDConfig(
    total_layer_num=3,
    random_ltd_layer_num=1,
    random_ltd_layer_id=(1,),
    model_mask_name=None,
    model_type="decoder",
    hidden_state_order="batch_seq_dim",
    schedule=RootSchedule(
        min_difficulty=2, max_difficulty=8, total_curriculum_step=6, difficulty_step=2
    ),
    seed=3,
    layer_token_lr=CLOCK,
)


class Engine(SimpleNamespace):
    """The calls of an engine that the schedule needs."""

    def train_batch_size(self):
        return 12

    def train_micro_batch_size_per_gpu(self):
        return 2

    def gradient_accumulation_steps(self):
        return 2


def make_engine(**changes):
    module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    parts = {
        "module": module,
        "optimizer": torch.optim.SGD(module.parameters(), lr=0.5),
        "lr_scheduler": None,
        "data_efficiency_config": SimpleNamespace(random_ltd=SETTINGS),
    }
    return Engine(**(parts | changes))


def test_the_rate_follows_the_layer_tokens_of_all_processes():
    engine = convert_to_random_ltd(make_engine(), nn.Linear, SETTINGS)
    assert engine.optimizer.param_groups[0]["lr"] == 0.0
    total = 0
    for step in range(8):
        for micro_batch in range(2):
            engine.random_ltd_scheduler.set_position(step, micro_batch * 2)
            engine.module(torch.randn(2, 8, 4))
        engine.lr_scheduler.step()
        kept = engine.random_ltd_scheduler.kept_length(step)
        shape = StepShape(num_rows=12, sequence_length=8, num_dropping_layers=1, kept_length=kept)
        total += layer_tokens(shape, 3)
        assert engine.lr_scheduler.layer_tokens == total
        expected = 0.5 * (total / 400 if total < 400 else (4000 - total) / 3600)
        assert engine.lr_scheduler.get_lr() == pytest.approx([expected])
    assert 0 < expected < 0.5


def test_a_resumed_schedule_goes_on():
    engine = convert_to_random_ltd(make_engine(), nn.Linear, SETTINGS)
    engine.random_ltd_scheduler.layer_tokens = 300
    engine.lr_scheduler.step()
    saved = engine.lr_scheduler.state_dict()
    assert saved == {"layer_tokens": 900, "base_rates": [0.5]}
    resumed = convert_to_random_ltd(make_engine(), nn.Linear, SETTINGS)
    resumed.lr_scheduler.load_state_dict(saved)
    assert resumed.lr_scheduler.get_last_lr() == engine.lr_scheduler.get_last_lr()
    alone = LayerTokenLR(resumed.optimizer, resumed.random_ltd_scheduler, CLOCK)
    alone.load_state_dict(saved)
    assert alone.layer_tokens == 900


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (make_engine().module, "no engine with an optimizer"),
        (make_engine(optimizer=None), "no engine with an optimizer"),
        (make_engine(lr_scheduler="mine"), "the engine has a learning-rate scheduler"),
    ],
)
def test_it_needs_an_engine_without_another_schedule(engine, message):
    with pytest.raises(ValueError, match=message):
        convert_to_random_ltd(engine, nn.Linear, SETTINGS)
