"""Both engines satisfy the protocol that everybody else asks for."""

import inspect

import pytest

from data_efficiency.engine.protocol import Engine
from data_efficiency.engine.stepping import Stepping
from data_efficiency.engine.torch_engine import TorchEngine

MEMBERS = [name for name in vars(Engine) if not name.startswith("_")]


@pytest.mark.parametrize("name", [*MEMBERS, "__call__"])
def test_the_pytorch_engine_has_every_member_with_the_same_arguments(name):
    wanted, found = getattr(Engine, name), getattr(TorchEngine, name)
    if isinstance(wanted, property):
        assert isinstance(found, property)
        return
    wanted, found = (inspect.signature(each).parameters for each in (wanted, found))
    assert set(wanted) <= set(found)
    assert [wanted[key].kind for key in wanted] == [found[key].kind for key in wanted]


def test_attributes_are_those_of_both_engines():
    declared = {name for one in Stepping.__mro__ for name in inspect.get_annotations(one)}
    assert set(Engine.__annotations__) <= declared
