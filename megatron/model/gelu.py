"""A linear map with GELU, exact or in its tanh form, which a CPU computes here in a few fast passes.

PyTorch's own tanh form takes five times as long on a CPU as its exact one, forwards and backwards. The same function is
x sigmoid(2u), whose passes are fast where a block of numbers stays in the caches; the bias is added in the same visit, and
the derivative, which needs the same sigmoid, is made along with the value and kept in the place of the input.
"""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
_BLOCK_NUMBERS = 2**17
"""Smaller blocks lose time between operators; of larger ones the caches do not hold all that is at work."""


def gelu_of_linear(
    linear: nn.Linear, inputs: torch.Tensor, kind: Literal["tanh", "exact"]
) -> torch.Tensor:
    """GELU of each element of `linear(inputs)`.

    Training with the tanh form on a CPU computes in float32 at least, from the matrix product on, and rounds the
    derivative to the result's dtype before it meets the gradient.

    Source: Gaussian Error Linear Units (Hendrycks and Gimpel, 2016), section 2.
    """
    if kind == "exact":
        return functional.gelu(linear(inputs))
    if not _is_computed_here(linear, inputs):
        return functional.gelu(linear(inputs), approximate="tanh")
    product = functional.linear(inputs, linear.weight)
    result: torch.Tensor = _TanhGelu.apply(product, linear.bias)
    return result


def _is_computed_here(linear: nn.Linear, inputs: torch.Tensor) -> bool:
    """Whether it is trained on a CPU, and the map is that of its weights, with nothing attached to it."""
    is_trained = torch.is_grad_enabled() and linear.weight.requires_grad
    is_plain = type(linear) is nn.Linear and type(linear.weight) is nn.Parameter
    hooks = (linear._forward_hooks, linear._forward_pre_hooks, linear._backward_hooks)
    on_cpu = inputs.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and is_trained and is_plain and not any(hooks)


class _TanhGelu(torch.autograd.Function):
    """Of a product [..., width] and a bias [width] or None; the result takes the product's place."""

    @staticmethod
    def forward(ctx: Any, product: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.mark_dirty(product)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(_apply_and_differentiate(product, bias))
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        (derivative,) = ctx.saved_tensors
        gradient = gradients[0] * derivative
        if ctx.bias_dtype is None:
            return gradient, None
        return gradient, gradient.flatten(0, -2).sum(0, dtype=ctx.bias_dtype)


def _apply_and_differentiate(product: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Put x sigmoid(2u), where x is product + bias and 2u = x (linear + cubic x^2), in the product's place.

    Args:
        product: contiguous.

    Returns:
        The derivative by x, in shape and dtype of the product.
    """
    derivative = torch.empty_like(product)
    rows, slopes = (tensor.view(-1, tensor.shape[-1]) for tensor in (product, derivative))
    dtype = torch.promote_types(product.dtype, torch.float32)
    size = max(1, min(len(rows), _BLOCK_NUMBERS // max(1, rows.shape[1])))
    linear, one = (torch.tensor(number, dtype=dtype) for number in (_LINEAR, 1.0))
    # Of a block: x, its result, sigmoid and derivative.
    memory = torch.empty(4, size, rows.shape[1], dtype=dtype)
    for block, block_slopes in zip(rows.split(size), slopes.split(size), strict=True):
        x, result, sigmoid, slope = memory[:, : len(block)]
        if bias is None:
            x.copy_(block)
        else:
            torch.add(block, bias, out=x)
        if dtype == product.dtype:
            result, slope = block, block_slopes
        square = torch.mul(x, x, out=slope)
        torch.add(linear, square, alpha=_CUBIC, out=sigmoid).mul_(x).sigmoid_()
        torch.mul(x, sigmoid, out=result)
        # sigmoid + result (1 - sigmoid) (linear + 3 cubic x^2), where the square stood.
        torch.add(linear, square, alpha=3 * _CUBIC, out=slope).mul_(result).lerp_(one, sigmoid)
        if dtype != product.dtype:
            block.copy_(result)
            block_slopes.copy_(slope)
    return derivative
