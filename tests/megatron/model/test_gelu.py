import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from megatron.model import gelu as gelu_module
from megatron.model.gelu import gelu_of_linear


def make_linear(width, *, bias=True, dtype=torch.float64):
    torch.manual_seed(width)
    linear = nn.Linear(3, width, bias=bias, dtype=dtype)
    with torch.no_grad():
        linear.weight *= 8
    return linear


def some_inputs(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn((*shape, 3), generator=generator, dtype=torch.float64).to(dtype)


def plain(linear, inputs):
    return functional.gelu(linear(inputs), approximate="tanh")


def blocked(linear, inputs):
    return gelu_of_linear(linear, inputs, "tanh")


def result_and_gradients(function, linear, inputs):
    """Of the inputs and all parameters."""
    inputs = inputs.detach().requires_grad_()
    result = function(linear, inputs)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    wanted = (inputs, *linear.parameters())
    return result, *torch.autograd.grad(result, wanted, upstream.to(result.dtype))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(1, 40),
    st.booleans(),
)
def test_equals_the_tanh_form_whatever_the_blocks(shape, width, block_numbers, bias):
    linear, inputs = make_linear(width, bias=bias), some_inputs(shape)
    expected = result_and_gradients(plain, linear, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gelu_module, "_BLOCK_NUMBERS", block_numbers)
        found = result_and_gradients(blocked, linear, inputs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.009)])
def test_is_as_exact_as_its_dtype(dtype, tolerance):
    linear, inputs = make_linear(70, dtype=dtype), some_inputs((30, 50), dtype)
    exact = result_and_gradients(plain, copy.deepcopy(linear).double(), inputs.double())
    found = result_and_gradients(blocked, linear, inputs)
    for rough, wanted in zip(found, exact, strict=True):
        assert rough.dtype == dtype
        assert (rough.double() - wanted).norm() < tolerance * wanted.norm()


def test_autocast_keeps_the_precision_of_weights_for_their_gradients():
    linear, inputs = make_linear(20, dtype=torch.float32), some_inputs((9,), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = result_and_gradients(blocked, linear, inputs)
        expected = result_and_gradients(plain, linear, inputs)
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.1)


def test_numbers_far_from_zero_have_the_slopes_of_the_ends():
    numbers = torch.tensor([[-1e6, -50.0, -0.0, 50.0, 1e6]])
    slopes = gelu_module._apply_and_differentiate(numbers, None)
    torch.testing.assert_close(numbers, torch.tensor([[0.0, 0.0, 0.0, 50.0, 1e6]]))
    torch.testing.assert_close(slopes, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]))


def test_keeps_less_for_the_backward_pass_than_pytorch():
    linear, inputs = make_linear(30), some_inputs((20,))

    def kept_bytes(function):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            function(linear, inputs)
        return sum(tensor.nbytes for tensor in kept)

    assert kept_bytes(blocked) <= kept_bytes(plain)


def test_what_is_attached_to_the_map_is_obeyed():
    linear, inputs = make_linear(6), some_inputs((4,))
    handle = linear.register_forward_hook(lambda *seen: 2 * seen[-1])
    assert torch.equal(blocked(linear, inputs), plain(linear, inputs))
    handle.remove()

    class Doubled(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    linear.__class__ = Doubled
    assert torch.equal(blocked(linear, inputs), plain(linear, inputs))


def test_without_training_and_in_the_exact_form_pytorch_computes():
    linear, inputs = make_linear(7), some_inputs((5,))
    with torch.no_grad():
        assert torch.equal(blocked(linear, inputs), plain(linear, inputs))
    found = result_and_gradients(lambda *given: gelu_of_linear(*given, "exact"), linear, inputs)
    expected = result_and_gradients(
        lambda *given: functional.gelu(given[0](given[1])), linear, inputs
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
