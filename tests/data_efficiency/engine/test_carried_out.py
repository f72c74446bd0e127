from types import SimpleNamespace

import pytest
import torch

from data_efficiency import Curriculum, DataEfficiencyConfig, LayerDropout, RandomLTD
from data_efficiency.engine.carried_out import (
    refuse_idle,
    refuse_ignored_windows,
    refuse_unscaled_rate,
)
from data_efficiency.json_section import ConfigError

LENGTHS = DataEfficiencyConfig.of(Curriculum("seqlen", start=8, steps=4))
ROUTES = DataEfficiencyConfig.of(RandomLTD(start=8, steps=4), LayerDropout(start=50, steps=4))


def loader_at(step):
    plan = None if step is None else SimpleNamespace(batch=SimpleNamespace(step=step))
    return SimpleNamespace(plan=plan)


def test_nothing_is_asked_of_who_switches_nothing_on():
    refuse_idle(DataEfficiencyConfig.of(), None, None, 0)


def test_routes_need_a_router_and_nothing_else():
    with pytest.raises(ConfigError, match=r"data_routing\.random_ltd and layer_dropout is enabled"):
        refuse_idle(ROUTES, None, None, 0)
    refuse_idle(ROUTES, SimpleNamespace(), None, 0)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (None, "there is no loader that draws by it"),
        (loader_at(None), "step 6 was not read from the loader"),
        (loader_at(5), "step 6 was not read from the loader"),
    ],
)
def test_a_curriculum_needs_the_loaders_batch_of_the_step(loader, message):
    with pytest.raises(ConfigError, match=message):
        refuse_idle(LENGTHS, None, loader, 5)
    refuse_idle(LENGTHS, None, loader_at(6), 5)


class WithWindow(torch.nn.Module):
    def forward(self, tokens, *, attention_window=None):
        """Nothing is computed."""


class Swallowing(torch.nn.Module):
    def forward(self, tokens, **others):
        """Nothing is computed."""


def test_a_window_reaches_a_model_that_knows_it_or_is_refused():
    windows = {"attention_window": 8}
    refuse_ignored_windows(windows, WithWindow(), {"attention_window": 8})
    refuse_ignored_windows({}, Swallowing(), {})
    with pytest.raises(ConfigError, match="has no argument attention_window"):
        refuse_ignored_windows(windows, Swallowing(), {"attention_window": 8})
    with pytest.raises(ConfigError, match="was given None: pass the batch's entry"):
        refuse_ignored_windows(windows, WithWindow(), {})


def test_a_rate_that_goes_with_the_batch_needs_who_sets_it():
    stages = {"difficulty": [8, 16], "max_step": [9]}
    batches = {"min_value": 8, "max_value": 16, "schedule_type": "fixed_discrete"}
    batches["schedule_config"] = stages
    refuse_unscaled_rate(DataEfficiencyConfig.of(batch_size=batches))
    config = DataEfficiencyConfig.of(batch_size=batches | {"lr_exponent": 0.5})
    with pytest.raises(ConfigError, match=r"lr_exponent is 0\.5, but the engine does not set"):
        refuse_unscaled_rate(config)
    with pytest.raises(ConfigError, match="there is no loader that draws by it"):
        refuse_idle(config, None, None, 0)
