"""Random-LTD on our layers: a slow loop's loss and gradients; where nothing is dropped, the same bits."""

from collections import Counter

import pytest
import torch

from data_efficiency import convert_to_random_ltd
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from tests.data_efficiency.routing.reference_loop import drop_in_a_loop
from tests.data_efficiency.small_models import KEPT, LENGTH, NUM_LAYERS, ROWS, dropping
from tests.megatron.small_models import MODERN

PADDING = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril().repeat(ROWS, 1, 1, 1)
"""Causal, and the first tokens of row 1 are padding that sees only itself."""
PADDING[1, :, 4:, :4] = False


class Heir(TransformerLayer):
    """A class of a user's own has the preset of ours."""


def make_model(**changes):
    torch.manual_seed(0)
    fields = {"num_layers": NUM_LAYERS, "hidden_size": 16, "num_attention_heads": 4}
    fields |= {"vocab_size": 50, "max_position_embeddings": 16, "init_method_std": 0.3}
    return GPTModel(ModelConfig(**(fields | changes))).double()


def batch(length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 50, (2, ROWS, LENGTH), generator=generator)[..., :length]


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mask", [None, PADDING], ids=["causal", "padding"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("architecture", [{}, MODERN], ids=["gpt2", "modern"])
@pytest.mark.parametrize("length", [LENGTH, 8], ids=["whole", "truncated"])
def test_loss_and_gradients_are_those_of_a_slow_loop(length, architecture, recompute, mask):
    """Whatever the JSON says of the axes: our layer's preset holds."""
    slow = make_model(**architecture)
    model = make_model(**architecture, recompute_activations=recompute)
    for layer in model.layers:
        layer.__class__ = Heir
    convert_to_random_ltd(model, Heir, dropping(hidden_state_order="seq_batch_dim"))
    (tokens, labels), mask = batch(length), None if mask is None else mask[..., :length, :length]
    model.random_ltd_scheduler.set_position(9, 4)
    loss = model(tokens, labels=labels, attention_mask=mask)
    positions = model.random_ltd_scheduler.positions.clone()
    assert positions.shape == (2, ROWS, KEPT)
    # A second forward before the backward: recomputation must not take its subset.
    model.random_ltd_scheduler.set_position(10, 0)
    model(*batch()[:1], labels=batch()[1])
    loss.backward()
    drop_in_a_loop(slow.layers, positions)
    expected = slow(tokens, labels=labels, attention_mask=mask)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    expected.backward()
    for name, gradient in gradients(slow).items():
        # Rotary tables are float32, turned alike in both.
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def run(kept, training):
    """The loss, the gradients, and how often each operator ran; None converts nothing."""
    model = make_model()
    if kept is not None:
        convert_to_random_ltd(model, TransformerLayer, dropping(kept))
        model.random_ltd_scheduler.set_position(0, 0)
    tokens, labels = batch()
    with torch.profiler.profile() as profile:
        loss = model.train(training)(tokens, labels=labels)
        loss.backward()
    operators = Counter({event.key: event.count for event in profile.key_averages()})
    return loss, gradients(model), operators


@pytest.mark.parametrize(("kept", "training"), [(LENGTH, True), (LENGTH + 1, True), (KEPT, False)])
def test_where_nothing_is_dropped_bits_and_operators_are_the_same(kept, training):
    loss, expected, operators = run(None, training)
    found_loss, found, found_operators = run(kept, training)
    assert torch.equal(found_loss, loss)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found_operators == operators
    assert run(KEPT, training=True)[2] != operators
