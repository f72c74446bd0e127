"""How a layer is called: which of its arguments and results have a sequence axis, and where."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from data_efficiency.routing.token_ops import gather_tokens


@dataclass(frozen=True, kw_only=True)
class LayerInterface:
    """The arguments of a layer that get shorter when tokens are dropped.

    The hidden states are the first positional argument, and the result or the first part of it. All
    other described arguments are batch first, whatever the hidden states are; a batch of 1 serves all
    rows, and an argument that is None stays None.
    """

    sequence_axis: int = 1
    """Sequence axis of the hidden states, 0 or 1; the other one is the batch axis."""
    masks: tuple[str, ...] = ()
    """Masks of any dtype: [batch, keys], [batch, queries, keys] or [batch, heads, queries, keys]."""
    cross_masks: tuple[str, ...] = ()
    """Masks whose keys are another sequence's: [batch, keys], [batch, queries, keys] or
    [batch, heads, queries, keys]."""
    token_tables: Mapping[str, int] = field(default_factory=dict)
    """Name -> sequence axis of tensors, or tuples of tensors, with one entry a token."""
    caches: Mapping[str, str] = field(default_factory=dict)
    """Name of a cache of earlier keys and values -> where the layer holds its own number in it, as
    dotted attributes. Layers that drop get no cache; one that holds keys is refused."""
    untouched: tuple[str, ...] = ()
    """Tensors without an axis of this sequence, passed on as they are where tokens are dropped. Where rows skip
    the layer, those that begin with the batch are cut to the other rows."""
    without_rows: tuple[str, ...] = ()
    """Those of them that have no batch axis, passed on as they are in any case."""
    complete: bool = False
    """Whether every tensor a layer takes is described. If not, an undescribed one is refused only if
    it has an axis as long as the sequence."""
    proved: bool = False
    """Whether tests have shown that layers called like this may drop tokens: their first training forward
    then proves nothing."""

    @property
    def batch_axis(self) -> int:
        """Batch axis of the hidden states."""
        return 1 - self.sequence_axis

    def shorten(
        self,
        name: str,
        value: Any,
        positions: torch.Tensor,
        sequence_length: int,
        layer: nn.Module | None = None,
    ) -> Any:
        """The argument as the kept tokens need it.

        Args:
            name: of the argument.
            value: what the caller gave; anything without a sequence axis comes back as it is.
            positions: kept positions, int64 [num_rows, kept_length].
            sequence_length: tokens before dropping.
            layer: whose argument it is; needed for caches.

        Raises:
            ValueError: for a described argument of a shape that does not fit the sequence, a cache that
                is not empty, and for a tensor that is not described and may have a sequence axis.
            TypeError: for a described argument that is no tensor.
        """
        if value is None or name in self.untouched:
            return value
        if self.is_cache(name, value):
            return self._refuse_filled(name, value, layer)
        if name in self.token_tables:
            if isinstance(value, tuple):
                return tuple(
                    self.shorten(name, table, positions, sequence_length, layer) for table in value
                )
            axes: tuple[int, ...] = (self.token_tables[name],)
        elif name in self.masks or name in self.cross_masks:
            axes = self._mask_axes(name, value, positions.shape[0])
        else:
            self._refuse_undescribed(name, value, sequence_length)
            return value
        return _gather(name, value, positions, axes, sequence_length, name not in self.token_tables)

    def choose_rows(
        self,
        name: str,
        value: Any,
        rows: torch.Tensor,
        num_rows: int,
        layer: nn.Module | None = None,
    ) -> Any:
        """The argument as the rows need it that do not skip the layer.

        Args:
            name: of the argument.
            value: what the caller gave; what is the same for all rows comes back as it is.
            rows: the rows that the layer processes, int64 [kept rows].
            num_rows: rows of the batch.
            layer: whose argument it is; needed for caches.

        Raises:
            ValueError: for a described tensor whose first axis is not the batch, a cache that is not empty,
                and a tensor that is not described and may have a batch axis.
        """
        if value is None or name in self.without_rows:
            return value
        if self.is_cache(name, value):
            return self._refuse_filled(name, value, layer)
        if name in self.token_tables and isinstance(value, tuple):
            return tuple(self.choose_rows(name, one, rows, num_rows, layer) for one in value)
        described = (*self.token_tables, *self.masks, *self.cross_masks, *self.untouched)
        if name not in described:
            self._refuse_undescribed(name, value, num_rows, "rows of the batch")
            return value
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or value.shape[0] == 1:
            return value
        if value.shape[0] != num_rows:
            raise ValueError(
                f"argument {name} has shape {tuple(value.shape)}: the first axis must be the batch of "
                f"{num_rows} rows, or 1"
            )
        return value.index_select(0, rows)

    def _refuse_filled(self, name: str, value: Any, layer: nn.Module | None) -> None:
        path = self.caches.get(name)
        number = _own_number(layer) if path is None else attrgetter(path)(layer)
        _refuse_filled_cache(name, value, number)

    def is_cache(self, name: str, value: Any) -> bool:
        """Whether an argument is described as a cache, or looks like one of Hugging Face's."""
        return value is not None and (name in self.caches or hasattr(value, "get_seq_length"))

    def _mask_axes(self, name: str, mask: Any, num_rows: int) -> tuple[int, ...]:
        """The axes of a mask that are this sequence's."""
        if not isinstance(mask, torch.Tensor):
            return ()
        axes = {2: (1,), 3: (1, 2), 4: (2, 3)}.get(mask.dim())
        if axes is None:
            raise ValueError(
                f"mask {name} has shape {tuple(mask.shape)}: must be [batch, keys], "
                "[batch, queries, keys] or [batch, heads, queries, keys]"
            )
        if mask.dim() == 2 and mask.shape[0] == mask.shape[1] == num_rows > 1:
            raise ValueError(
                f"mask {name} has shape {tuple(mask.shape)}: with as many rows as tokens, [batch, keys] "
                "looks like [queries, keys]; give it as [batch, 1, 1, keys] or [1, 1, queries, keys]"
            )
        return axes[:-1] if name in self.cross_masks else axes

    def _refuse_undescribed(
        self, name: str, value: Any, size: int, what: str = "tokens of the sequence"
    ) -> None:
        for tensor in tensors_in(value):
            if size in tensor.shape or (self.complete and tensor.dim() > 0):
                raise ValueError(
                    f"argument {name} holds a tensor of shape {tuple(tensor.shape)}, but nothing says "
                    f"whether it goes with the {size} {what}: name a mask in "
                    "model_mask_name, or give convert_to_random_ltd a LayerInterface of the layer"
                )


def _gather(
    name: str,
    value: Any,
    positions: torch.Tensor,
    axes: tuple[int, ...],
    sequence_length: int,
    may_be_1: bool,
) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"argument {name} is a {type(value).__name__}: random-LTD can shorten tensors only"
        )
    num_rows = positions.shape[0]
    if value.dim() == 0 or value.shape[0] not in (1, num_rows):
        raise ValueError(
            f"argument {name} has shape {tuple(value.shape)}: the first axis must be the batch of "
            f"{num_rows} rows, or 1"
        )
    for axis in axes:
        if may_be_1 and value.shape[axis] == 1:
            continue
        if value.dim() <= axis or value.shape[axis] != sequence_length:
            raise ValueError(
                f"argument {name} has shape {tuple(value.shape)}: axis {axis} must be as long as "
                f"the sequence ({sequence_length})"
            )
        value = gather_tokens(value, positions, axis)
    return value


def _refuse_filled_cache(name: str, cache: Any, number: int | None) -> None:
    """None in place of an empty cache; ValueError for another."""
    if hasattr(cache, "get_seq_length"):
        length = int(cache.get_seq_length(number))
    elif isinstance(cache, tuple | list):
        length = len(cache)
    else:
        raise TypeError(f"argument {name} is a {type(cache).__name__}: no cache random-LTD knows")
    if length:
        raise ValueError(
            f"argument {name} holds keys of {length} earlier tokens: random-LTD drops tokens of whole "
            "sequences only; train without a cache, or call eval() to generate"
        )


def _own_number(layer: nn.Module | None) -> int:
    """The number under which a Hugging Face layer keeps its keys in a cache."""
    modules: Any = () if layer is None else layer.modules()
    names = ("layer_idx", "layer_id")
    numbers = (getattr(module, name, None) for module in modules for name in names)
    return next((number for number in numbers if isinstance(number, int)), 0)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
