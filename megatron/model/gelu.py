"""GELU, exact or in its tanh form, which a CPU computes here in a few fast passes.

PyTorch's own tanh form takes five times as long on a CPU as its exact one, forwards and backwards. The same function is
x sigmoid(2u), whose passes are fast where a block of numbers stays in the caches; and as the derivative needs the
same sigmoid, it is made along with the value, and kept in the place of the input.
"""

import math
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
_BLOCK_NUMBERS = 2**17
"""Smaller blocks lose time between operators; of larger ones the caches do not hold all that is at work."""


def gelu(inputs: torch.Tensor, kind: Literal["tanh", "exact"]) -> torch.Tensor:
    """GELU of each element; any shape and floating dtype, which the result has too.

    In bfloat16 and float16 a CPU's arithmetic is float32, and the derivative is rounded before it meets the gradient.

    Source: Gaussian Error Linear Units (Hendrycks and Gimpel, 2016), section 2.
    """
    if kind == "exact":
        return functional.gelu(inputs)
    is_trained = torch.is_grad_enabled() and inputs.requires_grad
    if inputs.device.type != "cpu" or not is_trained or torch.compiler.is_compiling():
        return functional.gelu(inputs, approximate="tanh")
    result: torch.Tensor = _TanhGelu.apply(inputs)
    return result


class _TanhGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        result, derivative = _value_and_derivative(inputs)
        ctx.save_for_backward(derivative)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (derivative,) = ctx.saved_tensors
        product: torch.Tensor = gradients[0] * derivative
        return product


def _value_and_derivative(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """X sigmoid(2u) and its derivative, where 2u = x (linear + cubic x^2); shape and dtype of the inputs."""
    result, derivative = (
        torch.empty_like(inputs, memory_format=torch.contiguous_format) for _ in range(2)
    )
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    size = max(1, min(_BLOCK_NUMBERS, inputs.numel()))
    linear, one = (torch.tensor(number, dtype=dtype) for number in (_LINEAR, 1.0))
    # Of a block: input, result, derivative, sigmoid.
    memory = torch.empty(4, size, dtype=dtype)
    blocks = (tensor.view(-1).split(size) for tensor in (inputs.contiguous(), result, derivative))
    for block_inputs, block_result, block_derivative in zip(*blocks, strict=True):
        x, value, slope, sigmoid = memory[:, : len(block_inputs)]
        if dtype == inputs.dtype:
            x, value, slope = block_inputs, block_result, block_derivative
        else:
            x.copy_(block_inputs)
        square = torch.mul(x, x, out=slope)
        torch.add(linear, square, alpha=_CUBIC, out=sigmoid).mul_(x).sigmoid_()
        torch.mul(x, sigmoid, out=value)
        # sigmoid + value (1 - sigmoid) (linear + 3 cubic x^2), where the square stood.
        torch.add(linear, square, alpha=3 * _CUBIC, out=slope).mul_(value).lerp_(one, sigmoid)
        if dtype != inputs.dtype:
            block_result.copy_(value)
            block_derivative.copy_(slope)
    return result, derivative
