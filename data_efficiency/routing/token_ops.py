"""Which tokens and rows are kept, and moving them out of and back into a batch: plain tensor operations.

They run on every device and never wait for it.
"""

from typing import Any

import torch

_WORD = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_LARGEST = (1 << 63) - 1
_SMALLEST = -(1 << 63)
_PURPOSE_OF_ROWS = 0x726F7773206B6570
"""Sets the keys of rows apart from those of positions."""


def sample_kept_positions(  # noqa: PLR0913 - all that a subset is a function of
    *,
    seed: int,
    step: int,
    rows: range,
    num_layers: int,
    sequence_length: int,
    kept_length: int,
    device: torch.device,
    always_kept: tuple[int, ...] = (),
    preferred: torch.Tensor | None = None,
) -> torch.Tensor:
    """A uniformly random subset of positions for each layer and row, independent of each other.

    Each position gets a pseudo-random key, a function of (seed, step, layer, row, position) alone, and
    the positions with the smallest keys are kept. So a row's subset does not depend on the split
    of the global batch into micro-batches and ranks, and no generator has a state to save.

    Args:
        rows: numbers in the global batch of the rows to draw for.
        num_layers: layers to draw for.
        sequence_length: positions to choose from.
        kept_length: positions to choose, 1 <= kept_length <= sequence_length.
        always_kept: at most kept_length positions that are in each subset; the rest is uniform.
        preferred: bool [num_rows, sequence_length]: positions kept before the rest, those always kept
            excepted; which of them, if there are too many, is uniform.

    Returns:
        int64 [num_layers, num_rows, kept_length], ascending along the last axis.

    Source: the keys are SplitMix64 streams (Steele, Lea and Flood, 2014).
    """
    keys = _keys(seed, step, rows, num_layers, sequence_length, device)
    positions = torch.arange(sequence_length, device=device)
    if preferred is not None:
        # The second bit from above: below the rest, above those always kept.
        keys = torch.where(preferred, keys & (_LARGEST >> 1), (keys & _LARGEST) | (1 << 62))
    if always_kept:
        # Below zero only the chosen ones: nothing here is copied to the device or waits for it.
        chosen = chosen_of(always_kept, positions)
        keys = torch.where(chosen, _SMALLEST | positions, keys & _LARGEST)
    smallest = keys.topk(kept_length, dim=-1, largest=False, sorted=False).values
    return (smallest & _position_bits(sequence_length)).sort(dim=-1).values


def chosen_of(always_kept: tuple[int, ...], positions: torch.Tensor) -> torch.Tensor:
    """Which of the positions 0, 1, ... are always kept: bool, nothing is copied to the device."""
    chosen = torch.zeros_like(positions, dtype=torch.bool)
    for position in always_kept:
        chosen = chosen | (positions == position)
    return chosen


def _keys(
    seed: int, step: int, rows: range, num_layers: int, length: int, device: torch.device
) -> torch.Tensor:
    """int64 [num_layers, num_rows, length]: a function of (seed, step, layer, row, position), all different in a row.

    The position stands in the lowest bits: so no device breaks ties in its own way, and keys tell it.
    """
    run = _signed(_mix_integer(_mix_integer(seed & _WORD) + step))
    layers = torch.arange(num_layers, device=device).view(-1, 1, 1)
    row_numbers = torch.arange(rows.start, rows.stop, device=device).view(1, -1, 1)
    positions = torch.arange(length, device=device)
    streams = _mix(_mix(layers * _signed(_GOLDEN_GAMMA) + run) + row_numbers)
    keys = _mix(streams + (positions + 1) * _signed(_GOLDEN_GAMMA))
    return (keys & ~_position_bits(length)) | positions


def _position_bits(length: int) -> int:
    return (1 << length.bit_length()) - 1


def sample_kept_rows(
    *,
    seed: int,
    step: int,
    groups: range,
    rows_per_group: int,
    kept: tuple[int, ...],
    device: torch.device,
) -> tuple[torch.Tensor, ...]:
    """For each layer a uniformly random subset of the rows of each group, independent of each other.

    A function of (seed, step, layer, number of the group) alone. It shares no key with the positions that
    `sample_kept_positions` draws for the same seed.

    Args:
        groups: numbers in the global batch of the groups of rows, which follow one another.
        rows_per_group: rows of a group, at least 2.
        kept: for each layer, rows of a group to choose, from 1 to all.

    Returns:
        For each layer int64 [groups x kept], ascending; counted from the first row of `groups`.
    """
    own_seed = _mix_integer((seed & _WORD) ^ _PURPOSE_OF_ROWS)
    keys = _keys(own_seed, step, groups, len(kept), rows_per_group, device)
    by_key = keys.sort(dim=-1).values & _position_bits(rows_per_group)
    first_rows = torch.arange(len(groups), device=device).unsqueeze(1) * rows_per_group
    return tuple(
        (of_layer[:, :number].sort(dim=-1).values + first_rows).flatten()
        for of_layer, number in zip(by_key, kept, strict=True)
    )


def chance_of_keeping(
    *,
    kept_length: int,
    sequence_length: int,
    always_kept: tuple[int, ...],
    preferred: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor:
    """The share of all subsets that have a position: `widest` [1 or num_rows, sequence_length].

    Arguments are those of `sample_kept_positions`.
    """
    positions = torch.arange(sequence_length, device=device)
    always = chosen_of(always_kept, positions).unsqueeze(0)
    first = torch.zeros_like(always) if preferred is None else preferred & ~always
    dtype = widest(device)
    left = torch.full((1, 1), kept_length - len(always_kept), device=device, dtype=dtype)
    num_first = first.sum(dim=1, keepdim=True).to(dtype)
    num_rest = sequence_length - len(always_kept) - num_first
    of_first = (left / num_first.clamp(min=1)).clamp(max=1)
    of_rest = (left - num_first).clamp(min=0) / num_rest.clamp(min=1)
    return torch.where(always, 1.0, torch.where(first, of_first, of_rest))


def _mix_integer(value: int) -> int:
    """SplitMix64's finalizer on a Python integer, modulo 2**64."""
    value &= _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


def _mix(values: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer on int64, whose products wrap around modulo 2**64."""
    values = (values ^ _logical_shift(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _logical_shift(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _logical_shift(values, 31)


def _logical_shift(values: torch.Tensor, num_bits: int) -> torch.Tensor:
    """A right shift of int64 that fills with zeros instead of the sign."""
    return (values >> num_bits) & ((1 << (64 - num_bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def gather_tokens(
    tokens: torch.Tensor, positions: torch.Tensor, axis: int, batch_axis: int = 0
) -> torch.Tensor:
    """`tokens` at the kept positions of each row, as a new tensor.

    Args:
        tokens: any dtype; `batch_axis` has one entry a row, or one entry for all rows.
        positions: int64 [num_rows, kept_length].
        axis: sequence axis, from the front or the end.
        batch_axis: axis of the rows.

    Returns:
        `tokens` with `axis` shortened to kept_length and as many rows as `positions`.
    """
    axis, batch_axis = axis % tokens.dim(), batch_axis % tokens.dim()
    num_rows, kept_length = positions.shape
    if tokens.shape[batch_axis] == 1:
        shared = tokens.squeeze(batch_axis)
        axis -= batch_axis < axis
        chosen = shared.index_select(axis, positions.flatten())
        return chosen.unflatten(axis, (num_rows, kept_length)).movedim(axis, batch_axis)
    if {axis, batch_axis} == {0, 1}:
        chosen = tokens.flatten(0, 1).index_select(0, _flat_positions(tokens, positions, axis))
        leading = (num_rows, kept_length) if axis == 1 else (kept_length, num_rows)
        return chosen.view(*leading, *tokens.shape[2:])
    rows_first = tokens.movedim((batch_axis, axis), (0, 1))
    rows = torch.arange(num_rows, device=positions.device).unsqueeze(1)
    return rows_first[rows, positions].movedim((0, 1), (batch_axis, axis))


def widest(device: torch.device) -> torch.dtype:
    """The most exact type of fractions that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def take_kept(
    tokens: torch.Tensor, positions: torch.Tensor, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens for `put_back`, and those at the kept positions as `gather_tokens` takes them.

    Where the kept tokens go back, the others' gradient passes and the kept ones' comes out of the layer:
    as one pair, the two need one new tensor in the backward pass instead of four and a sum.

    Args:
        tokens: [num_rows, sequence, ...] or [sequence, num_rows, ...].
        positions: int64 [num_rows, kept_length], different ones in each row.
        axis: sequence axis, 0 or 1; the other one is the batch axis.
    """
    found: tuple[torch.Tensor, torch.Tensor] = _TakeKept.apply(tokens, positions, axis)
    return found


def put_back(
    passing: torch.Tensor, kept: torch.Tensor, positions: torch.Tensor, axis: int
) -> torch.Tensor:
    """The tokens with the kept positions of each row replaced by `kept`, as a new tensor.

    Args:
        passing: the first result of `take_kept`, which alone gives the right gradient.
        kept: as the second, but any dtype: another floating one widens the result.
        positions: as in `take_kept`.
    """
    merged: torch.Tensor = _PutBack.apply(passing, kept, positions, axis)
    return merged


def take_rows(
    tokens: torch.Tensor, rows: torch.Tensor, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens for `put_rows_back`, and those of some rows, as `take_kept` does it with positions.

    Args:
        tokens: [num_rows, sequence, ...] or [sequence, num_rows, ...].
        rows: int64 [kept rows], different ones.
        axis: of the rows, 0 or 1.
    """
    passing, kept = take_kept(tokens.transpose(0, axis).unsqueeze(0), rows.unsqueeze(0), 1)
    return passing, kept.squeeze(0).transpose(0, axis)


def put_rows_back(
    passing: torch.Tensor, kept: torch.Tensor, rows: torch.Tensor, axis: int
) -> torch.Tensor:
    """The tokens with some rows replaced by `kept`, as a new tensor; arguments as of `take_rows`."""
    whole = put_back(passing, kept.transpose(0, axis).unsqueeze(0), rows.unsqueeze(0), 1)
    return whole.squeeze(0).transpose(0, axis)


def scaled_change(before: torch.Tensor, after: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`before` and `scale` times what `after` has more, in the wider of their types."""
    dtype = torch.promote_types(before.dtype, after.dtype)
    return torch.lerp(before.to(dtype), after.to(dtype), scale.to(dtype))


class _TakeKept(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: torch.Tensor, positions: torch.Tensor, axis: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(positions)
        ctx.axis = axis
        return tokens.view_as(tokens), gather_tokens(tokens, positions, axis, 1 - axis)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        passing, kept = gradients
        (positions,) = ctx.saved_tensors
        # What `_PutBack` says of the kept places is not true of them: here it is overwritten.
        return _replaced(passing, kept, positions, ctx.axis), None, None


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, passing: torch.Tensor, kept: torch.Tensor, positions: torch.Tensor, axis: int
    ) -> torch.Tensor:
        ctx.save_for_backward(positions)
        ctx.axis = axis
        ctx.dtypes = passing.dtype, kept.dtype
        dtype = torch.promote_types(passing.dtype, kept.dtype)
        return _replaced(passing.to(dtype), kept.to(dtype), positions, axis)

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (gradient,) = gradients
        (positions,) = ctx.saved_tensors
        kept = gather_tokens(gradient, positions, ctx.axis, 1 - ctx.axis)
        passing_dtype, kept_dtype = ctx.dtypes
        return gradient.to(passing_dtype), kept.to(kept_dtype), None, None


def _replaced(
    tokens: torch.Tensor, kept: torch.Tensor, positions: torch.Tensor, axis: int
) -> torch.Tensor:
    index = _flat_positions(tokens, positions, axis)
    # No view of another tensor: models may change what a layer gives in place.
    merged = tokens.clone(memory_format=torch.contiguous_format)
    merged.flatten(0, 1).index_copy_(0, index, kept.flatten(0, 1))
    return merged


def _flat_positions(tokens: torch.Tensor, positions: torch.Tensor, axis: int) -> torch.Tensor:
    """int64 [num_rows x kept_length]: the kept positions in the first two axes taken as one."""
    num_rows = positions.shape[0]
    rows = torch.arange(num_rows, device=positions.device).unsqueeze(1)
    if axis == 1:
        return (positions + rows * tokens.shape[1]).flatten()
    return (positions * num_rows + rows).t().flatten()
