"""Which entries of a batch hold its tokens: by names or by a declaration, never by order or equal sizes.

An entry is a tensor or array in any nesting of mappings, dataclasses, lists and tuples; its name is the
path to it: `input_ids`, `chosen.input_ids`, `0` for the first of a tuple.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

from data_efficiency.accounting import IGNORED_LABEL

EMBEDDING_NAMES = ("inputs_embeds", "decoder_inputs_embeds")
TOKEN_NAMES = ("input_ids", "tokens", "decoder_input_ids", *EMBEDDING_NAMES)
"""Arguments with one position a token, ours and Hugging Face's; the first that is there counts. Numbers
of tokens end with the sequence's axis, [batch, (choices,) sequence], embeddings with one more."""
MASK_NAMES = ("padding_mask", "attention_mask")
NOT_TRAINED = {"labels": IGNORED_LABEL, "shift_labels": IGNORED_LABEL, "loss_mask": 0}
"""What takes a position out of the loss, by the name of the entry."""
_PER_TOKEN = (
    *("loss_mask", "shift_labels", "token_types", "token_type_ids", "tokentype_ids", "bbox"),
    *("segment_ids", "special_tokens_mask", "assistant_masks", "completion_mask", "offset_mapping"),
    *("global_attention_mask", "mm_token_type_ids", "document_ids"),
)
_POINTS_INTO_ROWS = (
    *("mc_token_ids", "masked_lm_positions", "masked_positions", "cls_index", "length", "lengths"),
    *("seq_len", "seq_lens", "seqlens", "sequence_length", "sequence_lengths", "input_lengths"),
)
"""Numbers of positions, or how many a row has: wrong where rows are cut."""
_NO_SEQUENCE = ("pixel_values", "pixel_values_videos", "pixel_mask", "input_features", "index")

Axes = dict[str, tuple[int, ...]]
"""Name of an entry -> its axes along the sequence."""


def rows_and_length(
    args: Iterable[Any], kwargs: Mapping[str, Any], *, has_bags: bool = False
) -> tuple[int, int]:
    """Rows and positions of a row in a model's arguments; 0 for what they do not tell.

    A mapping, dataclass or named tuple as first argument is looked into. Without a known name, the first argument
    tells if it is a tensor [batch, sequence] of whole numbers or [batch, sequence, hidden] of fractions.

    Args:
        has_bags: numbers of tokens have one more axis, of the tokens of a position's bag.

    Example:
        >>> import torch
        >>> rows_and_length((), {"labels": torch.zeros(4, 3), "input_ids": torch.zeros(4, 16).long()})
        (4, 16)
        >>> rows_and_length([torch.zeros(2, 3, 32, 32)], {})
        (2, 0)
    """
    first: Any = next(iter(args), None)
    has_names = not isinstance(first, (list, tuple)) or hasattr(first, "_fields")
    looked_into = (_parts(first) or {}) if has_names else {}
    arguments = {**looked_into, **kwargs}
    for name in TOKEN_NAMES:
        tensor: Any = arguments.get(name)
        axis = getattr(tensor, "ndim", 0) - 1 - (has_bags or _is_fraction(tensor))
        if axis >= 1:
            return math.prod(tensor.shape[:axis]), tensor.shape[axis]
    tensors = [value for value in (first, *arguments.values()) if getattr(value, "ndim", 0) >= 1]
    if not tensors:
        return 0, 0
    tells = tensors[0] is first and first.ndim == 2 + (has_bags or _is_fraction(first))
    return tensors[0].shape[0], tensors[0].shape[1] if tells else 0


def map_leaves(value: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """The same nesting, of the same types, with `change(name, leaf)` for each leaf."""
    parts = _parts(value)
    if parts is None:
        return change(path, value)
    prefix = f"{path}." if path else ""
    changed = {key: map_leaves(part, change, f"{prefix}{key}") for key, part in parts.items()}
    if all(changed[key] is part for key, part in parts.items()):
        return value
    if isinstance(value, (list, tuple)):
        inside = changed.values()
        return type(value)(*inside) if hasattr(value, "_fields") else type(value)(inside)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return changed
    copied = copy.copy(value)
    for key, part in changed.items():
        if isinstance(value, Mapping):
            copied[key] = part
        else:
            object.__setattr__(copied, key, part)  # of a dataclass, which may be frozen
    return copied


def arrays_of(batch: Any) -> dict[str, Any]:
    """The tensors and numeric arrays of a batch by name; a batch that is one itself is named `0`."""
    found: dict[str, Any] = {}

    def note(name: str, leaf: Any) -> Any:
        if hasattr(leaf, "ndim") and getattr(leaf.dtype, "kind", "f") in "biuf":
            found[name or "0"] = leaf
        return leaf

    map_leaves(batch, note)
    return found


def sequence_axes(
    arrays: Mapping[str, Any], declared: Mapping[str, tuple[int, ...]] | None
) -> Axes:
    """The entries that have positions of the sequence, and along which axes.

    Args:
        declared: `sequence_axes` of the JSON file, which then is all that counts.

    Raises:
        ValueError: if no entry is known to hold tokens, or one may have a sequence that no name tells.
    """
    if declared is not None:
        return _declared_axes(arrays, declared)
    if list(arrays) == ["0"] and arrays["0"].ndim == 2 and not _is_fraction(arrays["0"]):
        return {"0": (1,)}
    grid = _grid(arrays)
    axes = {name: _axes(name, arrays, grid) for name in arrays}
    return {name: own for name, own in axes.items() if own}


def last_name(path: str) -> str:
    """The innermost part of an entry's name that is no number: `input_ids` of `chosen.input_ids`."""
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), path)


def declare(arrays: Mapping[str, Any], reason: str) -> ValueError:
    """An error that asks for a declaration, with the batch's entries."""
    named = [f"{name} {list(array.shape)}" for name, array in arrays.items()]
    shapes = ", ".join([*named[:8], *(["..."] if len(named) > 8 else [])]) or "none"
    return ValueError(
        f"{reason} (the batch's tensors: {shapes}): say which of them have a sequence, and along which "
        'axis, by data_efficiency.data_sampling.curriculum_learning.sequence_axes, as in {"input_ids": 1}'
        ", or use a post-process function of your own"
    )


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """What a container holds by key, field or place; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (list, tuple)):
        return dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def _is_fraction(array: Any) -> bool:
    """Whether a tensor or array, or anything else, holds fractions."""
    if hasattr(array, "is_floating_point"):
        return bool(array.is_floating_point())
    return getattr(getattr(array, "dtype", None), "kind", "") == "f"


def _declared_axes(arrays: Mapping[str, Any], declared: Mapping[str, tuple[int, ...]]) -> Axes:
    found: Axes = {}
    for name, axes in declared.items():
        if name not in arrays:
            raise declare(arrays, f"sequence_axes names {name!r}, which is no tensor of the batch")
        num_axes = arrays[name].ndim
        if not all(-num_axes <= axis < num_axes for axis in axes):
            raise declare(arrays, f"sequence_axes of {name!r} are {list(axes)}: not all there")
        found[name] = tuple(axis % num_axes for axis in axes)
    return found


def _grid(arrays: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the numbers of the tokens, [batch, (choices,) sequence], that the names tell."""
    shapes = {}
    for name, array in arrays.items():
        known = last_name(name)
        if known.startswith(("decoder_", "cu_seq")):
            raise declare(arrays, f"{name!r} beside the tokens has a sequence of its own")
        if known in TOKEN_NAMES:
            axis = array.ndim - 1 - _is_fraction(array)
            if axis < 1 or _is_fraction(array) != (known == "inputs_embeds"):
                raise declare(arrays, f"{name!r} does not hold tokens as [batch, sequence]")
            shapes[name] = tuple(array.shape[: axis + 1])
    if not shapes:
        raise declare(arrays, "nothing to cut: no entry of the batch is known to hold its tokens")
    if len(set(shapes.values())) > 1:
        raise declare(arrays, f"{list(shapes)} have sequences of different shapes")
    grid = next(iter(shapes.values()))
    others = (name for name in arrays if last_name(name) in (*MASK_NAMES, *_PER_TOKEN))
    if len(grid) > 2 and not any(tuple(arrays[name].shape) == grid for name in others):
        raise declare(arrays, f"the tokens are {list(grid)}, and no mask tells which axis is which")
    return grid


def _axes(name: str, arrays: Mapping[str, Any], grid: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of an entry along the sequence; none where its name says that it has none."""
    array, known, length = arrays[name], last_name(name), grid[-1]
    shape = tuple(array.shape)
    per_token = shape[: len(grid)] == grid
    axes: tuple[int, ...] | None = None
    if known in _POINTS_INTO_ROWS:
        raise declare(arrays, f"{name!r} counts positions of rows that would be cut")
    if known in _NO_SEQUENCE:
        axes = ()
    elif known in MASK_NAMES:
        axes = _mask_axes(shape, grid)
    elif known == "position_ids":
        axes = (len(shape) - 1,) if shape[-1:] == grid[-1:] else None
    elif known == "labels" and _is_fraction(array):
        axes = None if per_token else ()
    elif known == "labels" and not per_token and shape in ((), grid[:1], (grid[0], 1)):
        axes = ()
    elif known in ("labels", *TOKEN_NAMES, *_PER_TOKEN):
        axes = (len(grid) - 1,) if per_token else None
    elif length not in shape[int(shape[:1] == grid[:1]) :]:
        axes = ()
    if axes is None:
        raise declare(
            arrays,
            f"{name!r} may have a sequence or not: its name and shape do not tell for rows of {length}",
        )
    return axes


def _mask_axes(shape: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes along the sequence of a mask [batch, sequence] or [batch, ..., queries or 1, sequence]."""
    last, length = len(shape) - 1, grid[-1]
    if shape == grid:
        return (last,)
    if last < 1 or shape[last] != length or shape[0] not in (1, grid[0]):
        return None
    if last == 1 or shape[last - 1] == 1:
        return (last,)
    return (last - 1, last) if shape[last - 1] == length else None
