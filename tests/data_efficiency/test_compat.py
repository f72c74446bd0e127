"""What published scripts call is there, and does nothing."""

import pytest

from data_efficiency.compat import refuse_analyzer_hooks
from data_efficiency.routing.router import Router
from data_efficiency.sampling.loader import CurriculumDataLoader


def test_names_are_those_of_the_router_and_the_loader():
    router = Router.__new__(Router)
    router.update_seq(3)
    assert vars(router) == {}
    loader = CurriculumDataLoader.__new__(CurriculumDataLoader)
    assert loader.data_sampler is loader


def test_hook_of_the_analyzer_is_refused_by_name():
    refuse_analyzer_hooks(custom_map_init=None)
    with pytest.raises(ValueError, match="custom_reduce is not supported"):
        refuse_analyzer_hooks(custom_map_init=None, custom_reduce=print)
