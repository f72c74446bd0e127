"""Causal attention in blocks of queries, for CPUs, and within a sliding window everywhere.

PyTorch's fused kernel computes the scores of future keys too, up to the next 512, and in bfloat16 takes
twice the time of the matrix products that it consists of. Here each block of queries meets only
the keys up to its end; the backward pass makes the probabilities again, so nothing quadratic is kept.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

_BLOCK_QUERIES = 128
"""Smaller blocks skip more of the future; larger ones make faster matrix products."""


def blocked_causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """softmax(query key^T / sqrt(head_size)) value, each query with the keys up to its own.

    Args:
        query: [batch, heads, sequence, head_size], any floating dtype.
        window: how many keys a query meets, its own among them; None: all of them.

    Returns:
        Shape and dtype of `query`, laid out as [batch, sequence, heads, head_size]. In bfloat16 the
        scores are rounded to it before the softmax, whose own arithmetic is float32.
    """
    if torch.compiler.is_compiling():
        # The loop over blocks would be compiled anew for each length.
        return _compiled(query, key, value, window)
    result: torch.Tensor = _BlockedCausalAttention.apply(query, key, value, window)
    return result


class _BlockedCausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        heads = tuple(tensor.flatten(0, 1) for tensor in (query, key, value))
        ctx.save_for_backward(*heads)
        ctx.shape, ctx.window = query.shape, window
        return _context(_empty_result(query), window, *heads)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        found = _gradients(ctx.window, query, key, value, gradients[0].flatten(0, 1))
        return *(gradient.unflatten(0, ctx.shape[:2]) for gradient in found), None


def _empty_result(query: torch.Tensor) -> torch.Tensor:
    """Uninitialized [batch, heads, sequence, size] that becomes [batch, sequence, hidden] for free."""
    by_token = query.transpose(1, 2)
    return torch.empty_like(by_token, memory_format=torch.contiguous_format).transpose(1, 2)


def _context(
    result: torch.Tensor,
    window: int | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """The result [batch, heads, sequence, size], filled; the others [batch x heads, sequence, size]."""
    with torch.autocast(query.device.type, enabled=False):
        for queries, keys, probabilities in _blocks(query, key, window):
            context = torch.bmm(probabilities, value[:, keys])
            result[:, :, queries] = context.unflatten(0, result.shape[:2])
    return result


def _gradients(
    window: int | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    result_gradient: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Those of query, key and value, all [batch x heads, sequence, size]."""
    scale = 1 / math.sqrt(query.shape[-1])
    query_gradient = torch.empty_like(query)
    # Many blocks add to a key's gradient: in bfloat16 the sum would lose the small ones.
    sum_dtype = torch.promote_types(key.dtype, torch.float32)
    key_gradient, value_gradient = (torch.zeros_like(key, dtype=sum_dtype) for _ in range(2))
    for queries, keys, probabilities in _blocks(query, key, window):
        gradient = result_gradient[:, queries]
        value_gradient[:, keys] += torch.bmm(probabilities.transpose(1, 2), gradient)
        score_gradient = torch._softmax_backward_data(
            torch.bmm(gradient, value[:, keys].transpose(1, 2)),
            probabilities,
            -1,
            probabilities.dtype,
        ).mul_(scale)
        torch.bmm(score_gradient, key[:, keys], out=query_gradient[:, queries])
        key_gradient[:, keys] += torch.bmm(score_gradient.transpose(1, 2), query[:, queries])
    return query_gradient, key_gradient.to(query.dtype), value_gradient.to(query.dtype)


def _blocks(
    query: torch.Tensor, key: torch.Tensor, window: int | None
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Each block's queries, the keys it meets, and its probabilities [heads, queries, keys]."""
    length = query.shape[1]
    window = length if window is None else window
    scaled = query / math.sqrt(query.shape[-1])
    future = query.new_full((min(length, _BLOCK_QUERIES),) * 2, -math.inf).triu_(1)
    for start in range(0, length, _BLOCK_QUERIES):
        end, first = min(start + _BLOCK_QUERIES, length), max(0, start - window + 1)
        scores = torch.bmm(scaled[:, start:end], key[:, first:end].transpose(1, 2))
        scores[:, :, start - first :] += future[: end - start, : end - start]
        if end - first > window:
            far = torch.ones(end - start, end - first, dtype=torch.bool, device=query.device)
            # The k-th query's window ends with it: at key start - first + k.
            scores.masked_fill_(far.tril_(start - first - window), -math.inf)
        yield slice(start, end), slice(first, end), torch.softmax(scores, -1)


@torch.library.custom_op("megatron::blocked_causal_attention", mutates_args=())
def _compiled(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """What a compiler takes as one operator."""
    heads = (part.flatten(0, 1) for part in (query, key, value))
    return _context(_empty_result(query), window, *heads)


@torch.library.custom_op("megatron::blocked_causal_attention_gradients", mutates_args=())
def _compiled_gradients(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gradient: torch.Tensor,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    heads = (part.flatten(0, 1) for part in (query, key, value, gradient))
    found = _gradients(window, *heads)
    shape = query.shape[:2]
    return found[0].unflatten(0, shape), found[1].unflatten(0, shape), found[2].unflatten(0, shape)


@_compiled.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    return _empty_result(query)


@_compiled_gradients.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gradient: torch.Tensor,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second, third = (query.new_empty(query.shape) for _ in range(3))
    return first, second, third


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *heads, ctx.window = inputs
    ctx.save_for_backward(*heads)


_compiled.register_autograd(
    lambda ctx, gradient: (
        *_compiled_gradients(*ctx.saved_tensors, gradient, ctx.window),
        None,
    ),
    setup_context=_keep_inputs,
)
