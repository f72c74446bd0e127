"""Dropping as its definition says it: the whole layer, in which nobody may look at dropped tokens.

Shares no code with the library. Every softmax and attention that the layer calls is replaced by plain
formulas that give dropped keys no weight.
"""

import inspect
from contextlib import contextmanager

import torch
from torch.nn import functional


def drop_by_masking(layers, positions):
    """Makes each layer [rows, sequence, hidden] change only the tokens at positions[number, row]."""
    for layer, chosen in zip(layers, positions, strict=True):
        layer.forward = _masked(layer.forward, chosen)


def _masked(original, chosen):
    def forward(hidden, *args, **kwargs):
        kept = torch.zeros(hidden.shape[:2], dtype=torch.bool).scatter(1, chosen, True)
        with _nobody_looks_at(~kept):
            result = original(hidden, *args, **kwargs)
        first = result[0] if isinstance(result, tuple) else result
        merged = torch.where(kept[:, :, None], first, hidden)
        return (merged, *result[1:]) if isinstance(result, tuple) else merged

    forward.__signature__ = inspect.signature(original)
    return forward


@contextmanager
def _nobody_looks_at(dropped):
    rows, length = dropped.shape

    def weights(scores):
        """A softmax over the last axis, which may end with a sink that belongs to no token."""
        sinks = scores.shape[-1] - length
        if scores.dim() > 2 and sinks in (0, 1) and scores.shape[0] % rows == 0:
            heads = scores.shape[0] // rows
            none = functional.pad(dropped, (0, sinks)).repeat_interleave(heads, 0)
            none = none.view(len(none), *[1] * (scores.dim() - 2), -1)
            scores = scores.masked_fill(none, -torch.inf)
        largest = scores.max(-1, keepdim=True).values.nan_to_num(neginf=0.0)
        parts = (scores - largest).exp()
        return parts / parts.sum(-1, keepdim=True).clamp(min=1e-300)

    def softmax(scores, dim=-1, *_, dtype=None, **__):
        scores = scores if dtype is None else scores.to(torch.promote_types(dtype, scores.dtype))
        return weights(scores.transpose(dim, -1)).transpose(dim, -1)

    def attention(
        query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_
    ):
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        scores = (
            query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        )
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return weights(scores) @ value

    places = [(owner, "softmax") for owner in (torch, functional, torch.Tensor)]
    places.append((functional, "scaled_dot_product_attention"))
    before = [getattr(owner, name) for owner, name in places]
    for owner, name in places:
        setattr(owner, name, softmax if name == "softmax" else attention)
    try:
        yield
    finally:
        for (owner, name), one in zip(places, before, strict=True):
            setattr(owner, name, one)
