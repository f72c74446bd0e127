"""What length plans do to the shape of a batch, by the action each declares.

- truncate: each row keeps its first positions; the rest of it is not used at this visit.
- reshape: the rows of a micro-batch are laid end to end, as the documents of a corpus are, and cut
  into rows of the present length. Every token stays, in more and shorter rows.
- trim_padding: rows are cut to the longest of their micro-batch without its padding.
- attention_window, sliding_window: rows stay as they are; the window goes to the model beside them.

Names tell which tensors have a sequence, or the JSON's `sequence_axes`; what neither tells is refused.

The shape after truncating and reshaping is arithmetic on the shape before: equal on every rank.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from data_efficiency.config import WINDOWS, LengthPlan
from data_efficiency.sampling.kept_end import kept_end_changes
from data_efficiency.token_names import (
    MASK_NAMES,
    NOT_TRAINED,
    Axes,
    arrays_of,
    declare,
    last_name,
    map_leaves,
    sequence_axes,
)

Declared = Mapping[str, tuple[int, ...]] | None


def shape_after(
    plans: Sequence[LengthPlan], difficulties: Mapping[str, int], num_rows: int, length: int
) -> tuple[int, int]:
    """Rows and positions of a micro-batch after the declared actions, but for its padding.

    Args:
        difficulties: what their schedules accept at the step.
        num_rows: rows of the micro-batch as it is read.
        length: positions of a row as it is read.

    Raises:
        ValueError: if a schedule gives a length below 1.
    """
    target = _target_length(plans, difficulties)
    if target is None or target >= length:
        return num_rows, length
    if _reshapes(plans):
        num_rows = -(-num_rows * length // target)
    return num_rows, target


def apply_actions(
    batch: Any,
    plans: Sequence[LengthPlan],
    difficulties: Mapping[str, int],
    declared: Declared = None,
) -> Any:
    """The batch after every declared action.

    Args:
        declared: `sequence_axes` of the JSON file.

    Raises:
        ValueError: if a schedule gives a length below 1, or the batch cannot be shaped as declared.
    """
    trimming = [plan.length_multiple for plan in plans if plan.action == "trim_padding"]
    if trimming:
        batch = trim_padding(batch, max(trimming), declared)
    target = _target_length(plans, difficulties)
    if target is not None:
        ends = [plan.keep_end_token for plan in plans if plan.keep_end_token is not None]
        if _reshapes(plans):
            batch = reshape(batch, target, declared)
        else:
            batch = truncate(batch, target, declared, keep_end=next(iter(ends), None))
    windows = windows_of(plans, difficulties)
    return _with_windows(batch, windows) if windows else batch


def _target_length(plans: Sequence[LengthPlan], difficulties: Mapping[str, int]) -> int | None:
    """The shortest length that a plan asks for; None where none does."""
    cutting = (plan for plan in plans if plan.action not in WINDOWS)
    lengths = (plan.length_at(difficulties[plan.name]) for plan in cutting)
    return min((length for length in lengths if length is not None), default=None)


def windows_of(plans: Sequence[LengthPlan], difficulties: Mapping[str, int]) -> dict[str, int]:
    """Argument of the model's forward -> positions of the window that limits attention; at most one.

    Raises:
        ValueError: if a schedule gives a window below 1.
    """
    windows: dict[str, int] = {}
    for plan in plans:
        if plan.action in WINDOWS:
            size = plan.length_at(difficulties[plan.name])
            assert size is not None
            windows[plan.action] = min(size, windows.get(plan.action, size))
    return windows


def _with_windows(batch: Any, windows: Mapping[str, int]) -> dict[str, Any]:
    """The entries of a batch, and the windows beside them."""
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"the batch is a {type(batch).__name__}, but {', '.join(windows)} is an argument of the model's forward: "
            "give batches that are mappings, or remove the metric"
        )
    return {**batch, **windows}


def _reshapes(plans: Sequence[LengthPlan]) -> bool:
    return any(plan.action == "reshape" for plan in plans)


def reshape(batch: Any, length: int, declared: Declared = None) -> Any:
    """The rows of a micro-batch, end to end, cut into rows of `length`.

    Rows [B, S] become ceil(B * S / length) rows; where `length` is not below S nothing changes. The
    last row ends with the last position. So unless `length` divides B * S it begins inside the row
    before: there the repeated positions are context only, out of the loss by `labels` (-100) and
    `loss_mask` (0). Each position is in the loss as often as before, and the context is counted with
    the tokens given to the model. Labels must be shifted already, as for `truncate`. `position_ids`
    that count a row's positions from 0 count those of the new rows; `document_ids` stay apart and rise where rows meet.

    Args:
        batch: with `labels` or `loss_mask`; every tensor is [B, S, ...].
        length: positions of a row, at least 1.

    Raises:
        ValueError: if the batch has no `labels` or `loss_mask`, a tensor of another shape, or positions
            that begin elsewhere.

    Source: `seqlen_reshape` of the published training scripts. Differs: those cut row by row, repeat
    or lose the row's end and keep an even number of rows.
    """
    arrays = arrays_of(batch)
    axes = sequence_axes(arrays, declared)
    in_loss = [name for name in axes if last_name(name) in NOT_TRAINED]
    if not in_loss:
        raise declare(
            arrays,
            "reshaping needs 'labels' or 'loss_mask', one a token, to take repeated positions out of the loss",
        )
    shape = tuple(arrays[in_loss[0]].shape[:2])
    for name, array in arrays.items():
        if axes.get(name) != (1,) or tuple(array.shape[:2]) != shape:
            raise ValueError(
                f"{name!r} has shape {list(array.shape)}, but reshaping makes other rows of those of "
                f"{in_loss[0]!r}, {list(shape)}: leave out what is no [{shape[0]}, {shape[1]}, ...], or "
                "truncate"
            )
    if length >= shape[1]:
        return batch
    return _replaced(batch, {name: _reshaped(name, length) for name in axes})


def _reshaped(name: str, length: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes the new rows of an entry."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if last_name(name) == "document_ids":
            # Each row's begin above all of the row before.
            span = tensor.max() - tensor.min() + 1
            tensor = tensor + span * torch.arange(len(tensor), dtype=tensor.dtype)[:, None]
        flat = tensor.flatten(0, 1)  # [rows * positions, ...]
        num_rows = -(-len(flat) // length)
        if last_name(name) == "position_ids":
            if not torch.equal(tensor, torch.arange(tensor.shape[1]).expand_as(tensor)):
                raise ValueError(
                    f"{name!r} does not count each row from 0: reshaping cannot renumber it; leave it out, "
                    "or truncate"
                )
            return torch.arange(length, dtype=tensor.dtype).repeat(num_rows, 1)
        num_repeated = num_rows * length - len(flat)
        last = flat[len(flat) - length :]
        if num_repeated and last_name(name) in NOT_TRAINED:
            last = last.clone()
            last[:num_repeated] = NOT_TRAINED[last_name(name)]
        rows = torch.cat([flat[: (num_rows - 1) * length], last])
        return rows.unflatten(0, (num_rows, length))

    return change


def trim_padding(batch: Any, multiple: int = 1, declared: Declared = None) -> Any:
    """The batch cut to the longest row of it without its padding, before and after the row.

    Args:
        batch: with a `padding_mask` or `attention_mask`, one number a token, nonzero where no padding is.
        multiple: the length is rounded up to a multiple of this, as far as there are positions.

    Raises:
        ValueError: if there is no such mask, or as `truncate`.

    Source: the published BERT scripts. Differs: each rank trims its own micro-batches, so that reading
    data needs no communication.
    """
    arrays = arrays_of(batch)
    mask = _padding_mask(arrays, sequence_axes(arrays, declared))
    if mask is None:
        raise declare(arrays, f"trimming padding needs one of {MASK_NAMES}, [batch, sequence]")
    used = torch.as_tensor(arrays[mask] != 0).flatten(0, -2).int()  # [rows, positions]
    ends = used.shape[1] - used.flip(1).argmax(1)
    longest = max(1, int(((ends - used.argmax(1)) * used.amax(1)).max()))
    return truncate(batch, -(-longest // multiple) * multiple, declared)


def truncate(
    batch: Any, length: int, declared: Declared = None, *, keep_end: int | None = None
) -> Any:
    """The first `length` positions of every row, of rows padded at the front the first real ones.

    Which tensors have a sequence is told by their names, see `token_names`, or declared. Padding at the
    front of a row goes to its end before, where a `padding_mask` or `attention_mask` tells of it. Tensors
    that hold labels for the next token must be shifted already and as long as the inputs.

    Args:
        batch: a tensor, or any nesting of mappings, dataclasses, lists and tuples of them.
        length: positions to keep, at least 1; a longer one changes nothing.
        keep_end: a token that rows which end with it end with afterwards, too, see `kept_end_changes`.

    Raises:
        ValueError: if names and shapes do not tell, padding at the front cannot be moved, or the end cannot be kept.
    """
    arrays = arrays_of(batch)
    axes = sequence_axes(arrays, declared)
    if all(length >= arrays[name].shape[axis] for name in axes for axis in axes[name]):
        return batch
    padding = _leading_padding(arrays, axes, declared)
    if keep_end is not None:
        if padding is not None:
            whole = max(arrays[name].shape[axis] for name in axes for axis in axes[name])
            batch = _replaced(batch, {name: _cut(axes[name], whole, padding) for name in axes})
            padding = None
        batch = _replaced(batch, kept_end_changes(batch, axes, length, keep_end))
    return _replaced(batch, {name: _cut(axes[name], length, padding) for name in axes})


def _cut(
    axes: tuple[int, ...], length: int, padding: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What cuts an entry: moves `padding`, [rows], positions from a row's front to its end before."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if padding is not None:
            (axis,), size = axes, tensor.shape[axes[0]]
            places = (torch.arange(size) + padding[..., None]) % size
            places = places.reshape(*places.shape, *[1] * (tensor.ndim - places.ndim))
            tensor = tensor.take_along_dim(places, axis)
        for axis in axes:
            tensor = tensor.narrow(axis, 0, min(length, tensor.shape[axis]))
        return tensor.contiguous()

    return change


def _padding_mask(arrays: Mapping[str, Any], axes: Axes) -> str | None:
    """The entry that says of each token whether it is padding."""

    def is_one(name: str) -> bool:
        shape = arrays[name].shape
        others = (arrays[other].shape for other in axes if other != name)
        return axes[name] == (len(shape) - 1,) and (len(shape) == 2 or shape in others)

    known = [name for mask in MASK_NAMES for name in axes if last_name(name) == mask]
    return next(filter(is_one, known), None)


def _leading_padding(
    arrays: Mapping[str, Any], axes: Axes, declared: Declared
) -> torch.Tensor | None:
    """How many positions of padding each row begins with, int64 [rows...]; None where none does.

    Raises:
        ValueError: if an entry cannot follow when that padding is moved.
    """
    mask = _padding_mask(arrays, axes)
    if mask is None:
        hidden = [
            name for name in axes if last_name(name) in MASK_NAMES and _hides_first(arrays[name])
        ]
        if hidden and declared is None:
            raise declare(arrays, f"{hidden[0]!r} hides the first position: padding at the front")
        return None
    used = torch.as_tensor(arrays[mask] != 0)
    padding = used.int().argmax(-1)
    if not padding.any():
        return None
    for name, array in arrays.items():
        follows = axes.get(name) == (used.ndim - 1,) and array.shape[: used.ndim] == used.shape
        if (name in axes and not follows) or last_name(name) in (
            "start_positions",
            "end_positions",
        ):
            raise ValueError(
                f"{mask!r} says that rows begin with padding, and {name!r} {list(array.shape)} cannot follow "
                "when it is moved to their end: pad rows at their end (padding_side='right')"
            )
    return padding


def _hides_first(mask: Any) -> bool:
    """Whether some row's first position is hidden from all others, by a mask of more than two axes."""
    tensor = torch.as_tensor(mask)
    adds = tensor.is_floating_point() and not (tensor > 0).any()
    first = tensor[..., 0] < 0 if adds else tensor[..., 0] == 0
    return bool(first.flatten(1).all(1).any()) if first.ndim > 1 else False


def _replaced(batch: Any, changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> Any:
    """The batch with some entries changed; arrays stay arrays."""

    def change(name: str, leaf: Any) -> Any:
        wanted = changes.get(name or "0")
        if wanted is None:
            return leaf
        # `tensor` copies, so that the array need not be writeable.
        return (
            wanted(leaf) if isinstance(leaf, torch.Tensor) else wanted(torch.tensor(leaf)).numpy()
        )

    return map_leaves(batch, change)


def map_tensors(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nesting with `change` applied to each tensor."""
    return map_leaves(
        batch, lambda _, leaf: change(leaf) if isinstance(leaf, torch.Tensor) else leaf
    )
