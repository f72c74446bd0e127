"""Which of a model's arguments hold its tokens: by their names, never by their order or sizes alone."""

from collections.abc import Iterable, Mapping
from typing import Any

TOKEN_NAMES = ("input_ids", "tokens", "decoder_input_ids", "inputs_embeds", "decoder_inputs_embeds")
"""Arguments [batch, sequence, ...] with one position a token, ours and Hugging Face's; the first
that is there counts."""


def rows_and_length(args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and positions of a row in a model's arguments; 0 for what they do not tell.

    A mapping as first argument is looked into. Without a known name, the first argument tells if it is
    a tensor [batch, sequence] of whole numbers or [batch, sequence, hidden] of fractions.

    Example:
        >>> import torch
        >>> rows_and_length((), {"labels": torch.zeros(4, 3), "input_ids": torch.zeros(4, 16).long()})
        (4, 16)
        >>> rows_and_length([torch.zeros(2, 3, 32, 32)], {})
        (2, 0)
    """
    first: Any = next(iter(args), None)
    arguments = {**first, **kwargs} if isinstance(first, Mapping) else kwargs
    for name in TOKEN_NAMES:
        tensor: Any = arguments.get(name)
        if getattr(tensor, "ndim", 0) >= 2:
            return tensor.shape[0], tensor.shape[1]
    tensors = [value for value in (first, *arguments.values()) if getattr(value, "ndim", 0) >= 1]
    if not tensors:
        return 0, 0
    tells = tensors[0] is first and first.ndim == 2 + first.is_floating_point()
    return tensors[0].shape[0], tensors[0].shape[1] if tells else 0
