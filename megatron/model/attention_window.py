"""Causal attention that looks no further than a window, at a price that falls with the window.

- Blocks: a row's positions are cut into blocks of the window's size, side by side; a query looks at the keys of its own
  block up to its own position. The blocks become rows of their own, so that any kernel computes them, without a mask.
- Sliding: a query looks at its own position and those before it, as many as the window has.

Where token dropping has left some positions of a row out, blocks are those of the original positions.

Source: block windows that grow are SkyLadder's (Zhu et al., arXiv 2503.15450). Differs: the last block may be shorter.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from megatron.model.blocked_attention import blocked_causal_attention
from megatron.setting_rules import require

Attend = Callable[..., torch.Tensor]


class Window(NamedTuple):
    """How far attention looks."""

    size: int
    """Positions, at least 1."""
    slides: bool
    """Whether each query has a window of its own; else windows are blocks."""
    row_length: int
    """Positions of the whole row, before any was dropped."""


def make_window(
    attention_window: int | None, sliding_window: int | None, row_length: int
) -> Window | None:
    """The window that a forward's arguments mean; None where attention is not limited.

    Raises:
        ValueError: for a size below 1, or both.
    """
    size = sliding_window if attention_window is None else attention_window
    if size is None:
        return None
    if size < 1 or (attention_window is not None and sliding_window is not None):
        raise ValueError(
            f"attention_window is {attention_window} and sliding_window is {sliding_window}: give one of the two, "
            "at least 1"
        )
    return None if size >= row_length else Window(size, sliding_window is not None, row_length)


def attend_in_window(
    attend: Attend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    window: Window,
    positions: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """The causal attention of a layer within a window, [batch, heads, sequence, head_size].

    Args:
        attend: computes causal attention of whole rows.
        query: likewise; `key` and `value` may have fewer heads.
        positions: int64 [batch, sequence], increasing: the original positions of a row of which some were
            dropped; not looked at where there are as many as the row had.

    Raises:
        ValueError: for a sliding window with dropped positions, or with attention dropout.
    """
    if window.slides:
        return sliding_attention(*sliding_rows(window, dropout, query, key, value), window.size)

    def rows(*heads: torch.Tensor) -> torch.Tensor:
        return attend(*heads, attention_mask=None, dropout=dropout, is_causal=True)

    if query.shape[2] == window.row_length:
        return _blocks_as_rows(rows, window.size, query, key, value)
    assert positions is not None
    return _fragments_as_rows(rows, window, positions, query, key, value)


def sliding_rows(
    window: Window, dropout: float, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value with equally many heads, as the kernel of sliding windows takes them.

    Raises:
        ValueError: for dropped positions, or attention dropout.
    """
    require(not dropout, "attention_dropout", dropout, "a sliding window has none: must be 0")
    if query.shape[2] != window.row_length:
        raise ValueError("a sliding window goes over whole rows, and some positions were dropped")
    groups = query.shape[1] // key.shape[1]
    return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def sliding_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int
) -> torch.Tensor:
    """Causal attention over a sliding window, as `two_blocks_attention` says it.

    A processor computes piece by piece what stays in its caches; a GPU would wait for each piece.
    """
    is_cpu = query.device.type == "cpu"
    return (blocked_causal_attention if is_cpu else two_blocks_attention)(query, key, value, window)


def two_blocks_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int
) -> torch.Tensor:
    """Causal attention over a sliding window by one kernel for all blocks: each sees itself and the block before.

    Args:
        query: likewise `key` and `value`, [batch, heads, sequence, head_size].
        window: positions that a query sees, its own among them.
    """
    attend, length = functional.scaled_dot_product_attention, query.shape[2]
    if window >= length:
        return attend(query, key, value, is_causal=True)
    behind = -length % window
    query, key, value = (functional.pad(part, (0, 0, 0, behind)) for part in (query, key, value))
    # The first block has none before it.
    first = attend(query[:, :, :window], key[:, :, :window], value[:, :, :window], is_causal=True)
    keys, values = (
        torch.cat(
            [_rows_of(part[:, :, :-window], window), _rows_of(part[:, :, window:], window)], 2
        )
        for part in (key, value)
    )
    places = torch.arange(2 * window, device=query.device)
    own = places[:window, None]
    mask = (places > own) & (places <= own + window)  # [window, 2 x window]
    rest = attend(_rows_of(query[:, :, window:], window), keys, values, attn_mask=mask)
    return torch.cat([first, _joined(rest, len(query))], 2)[:, :, :length]


def _blocks_as_rows(rows: Attend, size: int, *heads: torch.Tensor) -> torch.Tensor:
    length = heads[0].shape[2]
    in_blocks = length // size * size
    if length < 2 * size:
        # A block and a shorter one: nothing to reshape, which a compiler would do for this number alone.
        context = rows(*(part[:, :, :size] for part in heads))
    else:
        blocks = [_rows_of(part[:, :, :in_blocks], size) for part in heads]
        context = _joined(rows(*blocks), len(heads[0]))
    if in_blocks == length:
        return context
    rest = rows(*(part[:, :, in_blocks:] for part in heads))
    return torch.cat([context, rest], 2)


def _fragments_as_rows(
    rows: Attend, window: Window, positions: torch.Tensor, *heads: torch.Tensor
) -> torch.Tensor:
    """The kept positions of each block at the beginning of a row of their own; nobody looks at what is behind them."""
    num_rows, num_kept = positions.shape
    block = positions // window.size
    num_blocks = -(-window.row_length // window.size)
    counts = torch.zeros(num_rows, num_blocks, dtype=torch.int64, device=positions.device)
    counts.scatter_add_(1, block, torch.ones_like(block))
    before = counts.cumsum(1) - counts  # [rows, blocks]: kept positions of earlier blocks
    capacity = min(window.size, num_kept)
    if positions.device.type == "cpu" and not torch.compiler.is_compiling():
        # Elsewhere the look would stall the device.
        capacity = int(counts.max())
    in_block = torch.arange(num_kept, device=positions.device) - before.gather(1, block)
    places = (block * capacity + in_block)[:, None, :, None]  # [rows, 1, kept, 1]

    def fragments(part: torch.Tensor) -> torch.Tensor:
        room = part.new_zeros(*part.shape[:2], num_blocks * capacity, part.shape[3])
        return _rows_of(room.scatter(2, places.expand_as(part), part), capacity)

    context = _joined(rows(*map(fragments, heads)), num_rows)
    return context.gather(2, places.expand_as(heads[0]))


def _rows_of(heads: torch.Tensor, size: int) -> torch.Tensor:
    """[batch x blocks, heads, size, head_size] of [batch, heads, blocks x size, head_size]."""
    return heads.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)


def _joined(rows: torch.Tensor, batch_size: int) -> torch.Tensor:
    """[batch, heads, blocks x size, head_size] of [batch x blocks, heads, size, head_size]."""
    return rows.unflatten(0, (batch_size, -1)).transpose(1, 2).flatten(2, 3)
