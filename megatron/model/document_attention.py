"""Causal attention that stays inside documents, at a price that falls with their lengths.

A row of several documents is cut where one ends, and where a window of blocks does; each fragment becomes a row of its own
around the kernel, without a mask. Fragments of nearly the same length go together, padded behind to the longest of them,
where nobody looks; so a step takes a few calls of the kernel, however many documents there are.

Source: rows of a variable-length kernel, as in Megatron-LM's packed sequences. Differs: any kernel serves, on every device.
"""

from functools import partial
from typing import NamedTuple

import torch

from megatron.model.attention_window import Attend, Window, sliding_attention, sliding_rows

_MOST_PADDING = 1.25
"""A group's longest fragment is at most so many times as long as its shortest, unless both are short."""
_SHORT = 16
"""Positions that are not worth a group of their own."""


class _Layout(NamedTuple):
    """Fragments as rows, group by group."""

    places: torch.Tensor
    """int64 [packed]: the token of the batch that stands at each place of these rows."""
    groups: tuple[tuple[int, int], ...]
    """Rows of each group, and how long they are."""
    back: torch.Tensor
    """int64 [tokens]: the place of each token."""


def attend_in_documents(
    attend: Attend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    document_ids: torch.Tensor,
    window: Window | None,
    positions: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """The causal attention of a layer inside documents, [batch, heads, sequence, head_size].

    Args:
        attend: computes causal attention of whole rows.
        query: likewise; `key` and `value` may have fewer heads.
        document_ids: int64 [batch, sequence], which document of its row each token is of, rising along a row.
        window: how far attention looks besides.
        positions: int64 [batch or 1, sequence], of a window: the tokens' places in the whole row.

    Raises:
        ValueError: for a sliding window with dropped positions, or with attention dropout.
    """
    num_rows, _, length, _ = query.shape
    rows_of_documents = document_ids.expand(num_rows, length)
    begins = torch.ones_like(rows_of_documents, dtype=torch.bool)
    begins[:, 1:] = rows_of_documents[:, 1:] != rows_of_documents[:, :-1]
    if window is not None and not window.slides:
        assert positions is not None
        block = positions // window.size
        begins[:, 1:] |= block[:, 1:] != block[:, :-1]

    heads = query, key, value
    rows = partial(attend, attention_mask=None, dropout=dropout, is_causal=True)
    if window is not None and window.slides:
        heads = sliding_rows(window, dropout, *heads)
        rows = partial(sliding_attention, window=window.size)
    layout = _layout(begins)
    if layout.groups == ((num_rows, length),):
        return rows(*heads)
    packed = [_tokens_of(part).index_select(0, layout.places) for part in heads]
    sizes = [number * size for number, size in layout.groups]
    contexts = [
        _tokens_of(rows(*(part.unflatten(0, group).transpose(1, 2) for part in parts)))
        for group, *parts in zip(
            layout.groups, *(part.split(sizes) for part in packed), strict=True
        )
    ]
    context = torch.cat(contexts).index_select(0, layout.back)
    return context.unflatten(0, (num_rows, length)).transpose(1, 2)


def _tokens_of(heads: torch.Tensor) -> torch.Tensor:
    """[batch x sequence, heads, head_size] of [batch, heads, sequence, head_size]."""
    return heads.transpose(1, 2).flatten(0, 1)


def _layout(begins: torch.Tensor) -> _Layout:
    """The fragments of rows.

    Args:
        begins: bool [batch, sequence], True where a fragment begins, as each row does.
    """
    flat = begins.flatten()
    starts = flat.nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([len(flat)])])
    lengths, order = (ends - starts).sort(descending=True, stable=True)
    groups = _groups(lengths.tolist())
    room = torch.cat([lengths.new_full((number,), size) for number, size in groups])
    first = room.cumsum(0) - room  # the place where each fragment's row begins, longest first
    fragment = torch.arange(len(room), device=flat.device).repeat_interleave(room)
    inside = torch.arange(len(fragment), device=flat.device) - first[fragment]
    places = starts[order][fragment] + torch.minimum(inside, lengths[fragment] - 1)
    first_of = torch.empty_like(first).scatter_(0, order, first)
    own = flat.cumsum(0) - 1
    back = first_of[own] + torch.arange(len(flat), device=flat.device) - starts[own]
    return _Layout(places, groups, back)


def _groups(lengths: list[int]) -> tuple[tuple[int, int], ...]:
    """How many fragments, of those sorted from the longest, go together, and the longest's length.

    Example:
        >>> _groups([100, 90, 70, 16, 3])
        ((2, 100), (1, 70), (2, 16))
    """
    groups: list[tuple[int, int]] = []
    for length in lengths:
        if groups:
            number, longest = groups[-1]
            if longest <= max(_SHORT, _MOST_PADDING * length):
                groups[-1] = number + 1, longest
                continue
        groups.append((1, length))
    return tuple(groups)
