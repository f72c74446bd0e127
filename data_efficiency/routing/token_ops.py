"""Which tokens are kept, and moving them out of and back into a sequence: plain tensor operations.

They run on every device and never wait for it.
"""

from typing import Any

import torch

_WORD = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_LARGEST = (1 << 63) - 1
_SMALLEST = -(1 << 63)


def sample_kept_positions(
    *,
    seed: int,
    step: int,
    rows: range,
    num_layers: int,
    sequence_length: int,
    kept_length: int,
    device: torch.device,
    always_kept: tuple[int, ...] = (),
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

    Returns:
        int64 [num_layers, num_rows, kept_length], ascending along the last axis.

    Source: the keys are SplitMix64 streams (Steele, Lea and Flood, 2014).
    """
    run = _signed(_mix_integer(_mix_integer(seed & _WORD) + step))
    layers = torch.arange(num_layers, device=device).view(-1, 1, 1)
    row_numbers = torch.arange(rows.start, rows.stop, device=device).view(1, -1, 1)
    positions = torch.arange(sequence_length, device=device)
    streams = _mix(_mix(layers * _signed(_GOLDEN_GAMMA) + run) + row_numbers)
    keys = _mix(streams + (positions + 1) * _signed(_GOLDEN_GAMMA))
    # The position in the lowest bits makes keys unique, so that no device breaks ties in its own
    # way, and the smallest keys tell their positions.
    position_bits = (1 << sequence_length.bit_length()) - 1
    keys = (keys & ~position_bits) | positions
    if always_kept:
        # Below zero only the chosen ones: nothing here is copied to the device or waits for it.
        chosen = torch.zeros_like(positions, dtype=torch.bool)
        for position in always_kept:
            chosen = chosen | (positions == position)
        keys = torch.where(chosen, _SMALLEST | positions, keys & _LARGEST)
    smallest = keys.topk(kept_length, dim=-1, largest=False, sorted=False).values
    return (smallest & position_bits).sort(dim=-1).values


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
