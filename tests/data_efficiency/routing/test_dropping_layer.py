"""Layers that are called again, from outside, to recompute their activations."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from data_efficiency.routing.random_ltd import convert_to_random_ltd
from data_efficiency.schedule import CustomSchedule
from tests.data_efficiency.small_models import KEPT, LENGTH, NUM_LAYERS, ROWS, dropping

SETTINGS = dropping(schedule=CustomSchedule(function=lambda step: LENGTH if step == 9 else KEPT))


class Layer(nn.Module):
    """Attention, so that every kept token sees which others are kept."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(8, 8, dtype=torch.float64)

    def forward(self, hidden):
        inner = self.projection(hidden)
        attended = torch.nn.functional.scaled_dot_product_attention(inner, inner, inner)
        return hidden + attended


class Model(nn.Module):
    """Layers that are called through `recompute`, `layers_at_once` in each call."""

    def __init__(self, recompute, layers_at_once=1, between=lambda hidden: hidden):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Linear(8, 8, dtype=torch.float64)
        self.layers = nn.ModuleList(Layer() for _ in range(NUM_LAYERS))
        self.recompute = recompute
        self.layers_at_once = layers_at_once
        self.between = between

    def forward(self, hidden):
        hidden = self.embedding(hidden)
        for start in range(0, NUM_LAYERS, self.layers_at_once):
            part = self.layers[start : start + self.layers_at_once]
            hidden = self.recompute(partial(self.run, part), hidden)
        return hidden

    def run(self, layers, hidden):
        for layer in layers:
            hidden = self.between(layer(hidden))
        return hidden


def no_recomputation(function, hidden):
    return function(hidden)


TORCH = [
    partial(checkpoint, use_reentrant=reentrant, preserve_rng_state=preserve)
    for reentrant in (True, False)
    for preserve in (True, False)
]


def batch(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(ROWS, LENGTH, 8, generator=generator, dtype=torch.float64)


def gradients(recompute, layers_at_once=1, steps=(3, 4), **changes):
    """Of two forwards that are both pending when the backward begins."""
    model = Model(recompute, layers_at_once, **changes)
    convert_to_random_ltd(model, Layer, SETTINGS)
    loss = torch.zeros((), dtype=torch.float64)
    for number, step in enumerate(steps):
        model.random_ltd_scheduler.set_position(step, 2)
        loss = loss + model(batch(number)).square().sum()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def all_equal(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("recompute", TORCH)
@pytest.mark.parametrize("layers_at_once", [1, 2, 4])
@pytest.mark.parametrize("steps", [(3, 4), (3, 9), (9, 3)], ids=str)
def test_recomputation_from_outside_keeps_the_same_tokens(recompute, layers_at_once, steps):
    expected = gradients(no_recomputation, steps=steps)
    assert all_equal(gradients(recompute, layers_at_once, steps), expected)
    assert not all_equal(gradients(no_recomputation, steps=(3, 5)), expected)


@pytest.mark.parametrize("recompute", TORCH)
def test_recomputation_that_hands_on_copies_is_refused(recompute):
    for hand_on in (torch.clone, lambda hidden: hidden * 1.0):
        with pytest.raises(RuntimeError, match="on hidden states of no pending forward"):
            gradients(recompute, layers_at_once=2, between=hand_on)


def test_recomputation_of_the_whole_model_is_refused():
    model = convert_to_random_ltd(Model(no_recomputation), Layer, SETTINGS)
    model.random_ltd_scheduler.set_position(0, 0)
    loss = checkpoint(model, batch(0).requires_grad_(), use_reentrant=False).sum()
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(RuntimeError, match="whole forward is recomputed"):
        loss.backward()


def test_a_tensor_that_two_forwards_share_is_refused():
    class Bare(Model):
        def forward(self, hidden):
            return self.recompute(self.layers[1], hidden)

    model = convert_to_random_ltd(Bare(TORCH[2]), Layer, SETTINGS)
    hidden, losses = batch(0).requires_grad_(), []
    for step in (3, 4):
        model.random_ltd_scheduler.set_position(step, 0)
        losses.append(model(hidden).sum())
    with pytest.raises(RuntimeError, match="two forwards with different subsets"):
        sum(losses).backward()


def test_a_layer_called_by_itself_is_refused_in_training_only():
    model = convert_to_random_ltd(Model(no_recomputation), Layer, SETTINGS)
    model.random_ltd_scheduler.set_position(0, 0)
    model(batch(0))
    with pytest.raises(RuntimeError, match="outside a forward of its model"):
        model.layers[1](batch(1))
    assert model.layers[0](batch(1)).shape == (ROWS, LENGTH, 8)
    model.eval()
    assert model.layers[1](batch(1)).shape == (ROWS, LENGTH, 8)


def test_a_forward_that_failed_is_over():
    model = convert_to_random_ltd(Model(no_recomputation), Layer, SETTINGS)
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(RuntimeError):
        model(batch(0).float())
    assert not model.random_ltd_scheduler.in_forward


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_layer_recomputed_from_outside_is_refused():
    model = convert_to_random_ltd(Model(TORCH[2]), Layer, SETTINGS)
    for layer in model.layers:
        layer.compile(backend="eager")
    model.random_ltd_scheduler.set_position(0, 0)
    loss = model(batch(0)).sum()
    with pytest.raises(RuntimeError, match="of no pending forward"):
        loss.backward()
    torch.compiler.reset()


@pytest.mark.parametrize("extra", [(KEPT, KEPT), (ROWS, 2, KEPT)], ids=str)
def test_results_of_the_kept_tokens_beside_the_hidden_states_may_not_be_used(extra):
    class Talkative(Layer):
        def forward(self, hidden):
            return super().forward(hidden), [torch.ones(extra)], torch.ones(())

    class All(Model):
        def run(self, layers, hidden):
            hidden, *extras = layers[0](hidden)
            self.extras = [*getattr(self, "extras", []), extras]
            return hidden

    model, plain = All(no_recomputation), Model(no_recomputation)
    model.layers = nn.ModuleList(Talkative() for _ in range(NUM_LAYERS))
    model.load_state_dict(plain.state_dict())
    convert_to_random_ltd(model, Talkative, SETTINGS)
    convert_to_random_ltd(plain, Layer, SETTINGS)
    for each in (model, plain):
        each.random_ltd_scheduler.set_position(0, 0)
    assert torch.equal(model(batch(0)), plain(batch(0)))
    assert model.extras[0][0][0].shape == extra
    (weights,), scalar = model.extras[1]
    assert scalar == 1
    for use in (torch.sum, lambda x: x.shape, lambda x: x + 1, lambda x: x[0]):
        with pytest.raises(
            ValueError, match="Talkative returned, beside the hidden states, a tensor"
        ):
            use(weights)


def test_a_forward_that_no_hook_saw_is_named():
    model = convert_to_random_ltd(Model(no_recomputation), Layer, SETTINGS)
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(RuntimeError, match=r"call the model itself instead of its forward\(\)"):
        model.forward(batch(0))


def test_a_replica_of_a_converted_model_is_refused():
    replica = convert_to_random_ltd(Model(no_recomputation), Layer, SETTINGS)
    replica._is_replica = True
    with pytest.raises(ValueError, match=r"nn\.DataParallel runs copies"):
        replica(batch(0))
