from functools import partial

import pytest
import torch
from torch import nn

from data_efficiency.routing.layer_copy import are_alike, copy_with_random_weights

CPU = torch.device("cpu")


class Layer(nn.Module):
    """A layer with a weight that is shared, a buffer, a table among its attributes and a number."""

    def __init__(self, number=0, width=4):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((width,), 2.0, dtype=torch.float64))
        self.table = torch.arange(width)
        self.layer_idx = number
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.table += 1
        return self.second(self.first(x)) * self.scale


def test_the_copy_computes_with_weights_of_its_own_and_changes_nothing():
    layer = Layer().to(torch.bfloat16)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    state = torch.get_rng_state()
    fired = []
    layer.register_forward_hook(lambda *_: fired.append(1))
    forward = copy_with_random_weights(layer, layer.forward, CPU)
    found = forward(torch.ones(2, 3, 4))
    assert found.dtype == torch.float32
    assert found.abs().max() > 0.01
    assert torch.equal(torch.get_rng_state(), state)
    assert fired == []
    assert (layer.calls, layer.table.tolist()) == (0, [0, 1, 2, 3])
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_shared_weights_stay_shared_and_none_is_near_zero():
    layer = Layer()
    nn.init.zeros_(layer.first.bias)
    copy = copy_with_random_weights(layer, layer.forward, CPU).__self__
    assert copy.first.weight is copy.second.weight
    assert copy.first.weight is not layer.first.weight
    assert copy.first.bias.abs().min() >= 0.5


def test_two_copies_are_equal():
    layer = Layer()
    one, other = (copy_with_random_weights(layer, layer.forward, CPU) for _ in range(2))
    assert torch.equal(one(torch.ones(1, 4)), other(torch.ones(1, 4)))


def test_what_stands_in_for_forward_is_followed_to_the_layer():
    layer = Layer()
    inner = layer.forward
    layer.forward = lambda x: pytest.fail("the copy calls what drops")
    assert copy_with_random_weights(layer, partial(inner), CPU)(torch.ones(1, 4)).shape == (1, 4)
    assert copy_with_random_weights(layer, lambda x: x, CPU) is None


def test_layers_of_one_model_are_alike_but_for_weights_and_numbers():
    assert are_alike(Layer(1), Layer(3), 2)
    assert not are_alike(Layer(1), Layer(3), 1)
    assert not are_alike(Layer(1), Layer(1, width=8), 0)
    other = Layer(1)
    other.table[0] = 9
    assert not are_alike(Layer(1), other, 0)
    other = Layer(1)
    other.second = nn.Identity()
    assert not are_alike(Layer(1), other, 0)
