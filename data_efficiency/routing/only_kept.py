"""A mode in which a layer's own code runs as if dropped tokens were not there, and nothing is random."""

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_MOST_SCORES = 1 << 22
"""Scores of attention that are held at once: so few stay in a processor's cache."""
_RANDOM = {
    *("bernoulli", "bernoulli_", "rand", "rand_like", "uniform", "uniform_", "exponential_"),
    *("normal", "normal_", "randn", "randn_like"),
}


class OnlyKept(TorchDispatchMode):
    """Every softmax over keys leaves the dropped ones out, and nothing is random.

    Args:
        kept: which keys are kept, bool [rows, sequence]; None: all.
    """

    def __init__(self, kept: torch.Tensor | None) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ("_softmax", "_safe_softmax", "_log_softmax"):
            scores, axis = self._without_dropped(args[0], args[1] % max(1, args[0].dim())), args[1]
            result = func(scores, axis, *args[2:], **kwargs)
            # A dropped query may be left without any key.
            return (
                result if scores is args[0] or name == "_log_softmax" else result.nan_to_num_(0.0)
            )
        if "scaled_dot_product" in name and not name.endswith("_backward"):
            return self._attention(func, args, kwargs)
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        result = func(*args, **kwargs)
        if name in _RANDOM:
            # Any constant is as good as noise; of dropout, what the kept values are divided by.
            result.fill_(args[1] if name.startswith("bernoulli") and len(args) > 1 else 1)
        return result

    def _attention(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A fused kernel's result by plain operators, for a part of the queries at a time."""
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key, value = (given[name] for name in ("query", "key", "value"))
        groups = query.shape[-3] // key.shape[-3]
        key, value = (tensor.repeat_interleave(groups, -3) for tensor in (key, value))
        mask, scale = given.get("attn_mask", given.get("attn_bias")), given.get("scale")
        query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
        keys = torch.arange(key.shape[-2], device=key.device)
        parts = []
        for first in range(0, query.shape[-2], size := max(1, _MOST_SCORES // key[..., 0].numel())):
            scores = query[..., first : first + size, :] @ key.transpose(-1, -2)
            if given.get("is_causal"):
                queries = first + torch.arange(scores.shape[-2], device=key.device)
                scores.masked_fill_(queries[:, None] < keys, float("-inf"))
            if mask is not None:
                part = mask if mask.shape[-2] == 1 else mask[..., first : first + size, :]
                is_bool = part.dtype == torch.bool
                scores = scores.masked_fill(~part, float("-inf")) if is_bool else scores + part
            scores = self._without_dropped(scores, scores.dim() - 1)
            parts.append(scores.softmax(-1).nan_to_num_(0.0) @ value)
        context = torch.cat(parts, -2)
        returns, tensor = func._schema.returns, torch._C.TensorType.get()
        if len(returns) == 1:
            return context
        return tuple(context if part.type.isSubtypeOf(tensor) else 0 for part in returns)

    def _without_dropped(self, scores: torch.Tensor, axis: int) -> torch.Tensor:
        """The scores, -inf at dropped keys if `axis` goes over the sequence and perhaps a sink behind it."""
        if self.kept is None or scores.dim() < 3 or axis == 0:
            return scores
        (num_rows, length), size = self.kept.shape, scores.shape[axis]
        if size - length not in (0, 1) or scores.shape[0] % num_rows:
            return scores
        kept = nn.functional.pad(self.kept, (0, size - length), value=True)
        kept = kept.repeat_interleave(scores.shape[0] // num_rows, 0)
        shape = [scores.shape[0]] + [1] * (scores.dim() - 1)
        shape[axis] = size
        return scores.masked_fill(~kept.view(shape), float("-inf"))
