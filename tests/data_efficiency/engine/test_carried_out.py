from types import SimpleNamespace

import pytest
import torch

from data_efficiency import Curriculum, DataEfficiencyConfig, LayerDropout, RandomLTD
from data_efficiency.engine.carried_out import refuse_idle, refuse_ignored_windows
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
