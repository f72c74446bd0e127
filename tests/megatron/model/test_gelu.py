import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from megatron.model import gelu as gelu_module
from megatron.model.gelu import gelu


def value_and_gradient(function, inputs):
    inputs = inputs.detach().requires_grad_()
    result = function(inputs)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    return result, *torch.autograd.grad(result, inputs, upstream.to(result.dtype))


def tanh_form(inputs):
    return functional.gelu(inputs, approximate="tanh")


def some_numbers(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (4 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 40))
def test_equals_the_tanh_form_whatever_the_blocks(shape, size):
    inputs = some_numbers(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gelu_module, "_BLOCK_NUMBERS", size)
        found = value_and_gradient(lambda x: gelu(x, "tanh"), inputs)
    torch.testing.assert_close(found, value_and_gradient(tanh_form, inputs))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.006)])
def test_is_as_exact_as_its_dtype(dtype, tolerance):
    inputs = some_numbers((3, 50, 70), dtype).transpose(0, 2)
    exact = value_and_gradient(tanh_form, inputs.double())
    found = value_and_gradient(lambda x: gelu(x, "tanh"), inputs)
    for rough, wanted in zip(found, exact, strict=True):
        assert rough.dtype == dtype
        assert rough.shape == inputs.shape
        assert (rough.double() - wanted).norm() < tolerance * wanted.norm()


def test_numbers_far_from_zero_have_the_slopes_of_the_ends():
    inputs = torch.tensor([-1e6, -50.0, -0.0, 50.0, 1e6])
    result, slopes = gelu_module._value_and_derivative(inputs)
    torch.testing.assert_close(result, torch.tensor([0.0, 0.0, 0.0, 50.0, 1e6]))
    torch.testing.assert_close(slopes, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_keeps_as_much_for_the_backward_pass_as_pytorch():
    inputs = some_numbers((20, 30), torch.bfloat16).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gelu(inputs, "tanh")
    assert [tensor.nbytes for tensor in kept] == [inputs.nbytes]


def test_without_training_and_in_the_exact_form_pytorch_computes():
    inputs = some_numbers((7, 5), torch.float32)
    assert torch.equal(gelu(inputs, "tanh"), tanh_form(inputs))
    inputs.requires_grad_()
    found = value_and_gradient(lambda x: gelu(x, "exact"), inputs)
    torch.testing.assert_close(found, value_and_gradient(functional.gelu, inputs), rtol=0, atol=0)
