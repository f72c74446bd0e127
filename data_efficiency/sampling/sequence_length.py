"""What length plans do to the shape of a batch, by the action each declares.

- truncate: each row keeps its first positions; the rest of it is not used at this visit.
- reshape: the rows of a micro-batch are laid end to end, as the documents of a corpus are, and cut
  into rows of the present length. Every token stays, in more and shorter rows.
- trim_padding: rows are cut to the longest of their micro-batch without its padding.

The shape after truncating and reshaping is arithmetic on the shape before: equal on every rank.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from data_efficiency.accounting import IGNORED_LABEL
from data_efficiency.config import LengthPlan

_NOT_TRAINED = {"labels": IGNORED_LABEL, "loss_mask": 0}
_PADDING_MASKS = ("padding_mask", "attention_mask")


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


def apply_actions(batch: Any, plans: Sequence[LengthPlan], difficulties: Mapping[str, int]) -> Any:
    """The batch after every declared action.

    Raises:
        ValueError: if a schedule gives a length below 1, or the batch cannot be shaped as declared.
    """
    trimming = [plan.length_multiple for plan in plans if plan.action == "trim_padding"]
    if trimming:
        batch = trim_padding(batch, max(trimming))
    target = _target_length(plans, difficulties)
    if target is None:
        return batch
    if _reshapes(plans):
        return reshape(batch, target)
    return truncate(batch, target)


def _target_length(plans: Sequence[LengthPlan], difficulties: Mapping[str, int]) -> int | None:
    """The shortest length that a plan asks for; None where none does."""
    lengths = (plan.length_at(difficulties[plan.name]) for plan in plans)
    return min((length for length in lengths if length is not None), default=None)


def _reshapes(plans: Sequence[LengthPlan]) -> bool:
    return any(plan.action == "reshape" for plan in plans)


def reshape(batch: Any, length: int) -> Any:
    """The rows of a micro-batch, end to end, cut into rows of `length`.

    Rows [B, S] become ceil(B * S / length) rows; where `length` is not below S nothing changes. The
    last row ends with the last position. So unless `length` divides B * S it begins inside the row
    before: there the repeated positions are context only, out of the loss by `labels` (-100) and
    `loss_mask` (0). Each position is in the loss as often as before, and the context is counted with
    the tokens given to the model. Labels must be shifted already, as for `truncate`.

    Args:
        batch: mapping with `labels` or `loss_mask`; every tensor is [B, S, ...].
        length: positions of a row, at least 1.

    Raises:
        ValueError: if the batch has no `labels` or `loss_mask`, or a tensor of another shape.

    Source: `seqlen_reshape` of the published training scripts. Differs: those cut row by row, repeat
    or lose the row's end and keep an even number of rows.
    """
    pairs = batch.items() if isinstance(batch, Mapping) else ()
    tensors = {name: value for name, value in pairs if isinstance(value, torch.Tensor)}
    in_loss = [tensors[name] for name in _NOT_TRAINED if name in tensors]
    if not in_loss:
        raise ValueError(
            "reshaping needs batches that are mappings with a tensor 'labels' or 'loss_mask', to take "
            "repeated positions out of the loss; use a post-process function of your own for others"
        )
    shape = in_loss[0].shape[:2]
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.shape[:2] != shape:
            raise ValueError(
                f"{name!r} has shape {tuple(tensor.shape)}: reshaping rows of {shape[1]} positions "
                f"needs [{shape[0]}, {shape[1]}, ...]"
            )
    if length >= shape[1]:
        return batch
    return dict(batch) | {name: _cut_anew(name, tensors[name], length) for name in tensors}


def _cut_anew(name: str, tensor: torch.Tensor, length: int) -> torch.Tensor:
    flat = tensor.flatten(0, 1)  # [rows * positions, ...]
    num_rows = -(-len(flat) // length)
    num_repeated = num_rows * length - len(flat)
    last = flat[len(flat) - length :]
    if num_repeated and name in _NOT_TRAINED:
        last = last.clone()
        last[:num_repeated] = _NOT_TRAINED[name]
    rows = torch.cat([flat[: (num_rows - 1) * length], last])
    return rows.unflatten(0, (num_rows, length))


def trim_padding(batch: Any, multiple: int = 1) -> Any:
    """The batch without the positions at its end that are padding in every row.

    Args:
        batch: mapping with a `padding_mask` or `attention_mask` [B, S], nonzero where no padding is.
        multiple: the length is rounded up to a multiple of this, as far as there are positions.

    Raises:
        ValueError: if there is no such mask.

    Source: the published BERT scripts. Differs: each rank trims its own micro-batches, so that reading
    data needs no communication.
    """
    names = [name for name in _PADDING_MASKS if isinstance(batch, Mapping) and name in batch]
    if not names or batch[names[0]].ndim != 2:
        raise ValueError(
            f"trimming padding needs batches that are mappings with one of {_PADDING_MASKS}, "
            "[batch, sequence]"
        )
    used = (batch[names[0]] != 0).any(0).nonzero()  # [positions used in some row, 1]
    longest = int(used[-1]) + 1 if len(used) else 1
    return truncate(batch, -(-longest // multiple) * multiple)


def truncate(batch: Any, length: int) -> Any:
    """The first `length` positions of every row.

    The sequence's size is axis 1 of the first tensor that has one; every axis after the batch axis of
    that size is cut, so masks [batch, 1, sequence, sequence] are cut in both. Tensors that hold labels
    for the next token must be shifted already and as long as the inputs.

    Args:
        batch: a tensor, or any nesting of dicts, lists and tuples of them; axis 0 is the batch.
        length: positions to keep, at least 1; a longer one changes nothing.
    """
    tensors: list[torch.Tensor] = []
    map_tensors(batch, tensors.append)
    size = next((tensor.shape[1] for tensor in tensors if tensor.ndim >= 2), 0)
    return batch if length >= size else map_tensors(batch, lambda leaf: _cut(leaf, size, length))


def _cut(tensor: torch.Tensor, size: int, length: int) -> torch.Tensor:
    for axis in range(1, tensor.ndim):
        if tensor.shape[axis] == size:
            tensor = tensor.narrow(axis, 0, length)
    return tensor.contiguous()


def map_tensors(batch: Any, change: Any) -> Any:
    """The same nesting with `change` applied to each tensor."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(value, change) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [map_tensors(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
