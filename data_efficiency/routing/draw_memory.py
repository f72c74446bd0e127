"""Which draw a tensor belongs to, for layers that are called again to recompute their activations."""

from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import ReferenceType

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(frozen=True, eq=False)
class KeptDraw:
    """The kept positions and rows of one forward pass of the model."""

    positions: torch.Tensor | None = None
    """int64 [num_subsets, num_rows, kept_length]; None: no token is dropped."""
    num_rows: int = 0
    sequence_length: int = 0
    place: tuple[int, int] | None = None
    """Step and number of the first row, which the subsets are a function of."""
    sizes: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    """[num_rows, sequence_length, 0]: as sizes of an array, compiled code does not take the two for constants."""
    token_scale: torch.Tensor | None = None
    """[num_subsets, num_rows or 1, kept_length or 1, 1]: what the layers' changes of kept tokens are multiplied by;
    None: 1."""
    rows: tuple[torch.Tensor | None, ...] = ()
    """For each layer of the model the rows that it processes, int64 [kept rows] from 0, ascending; None: all.
    Empty: no row skips a layer."""
    row_scale: tuple[torch.Tensor | None, ...] = ()
    """For each layer a scalar, what its changes of kept rows are multiplied by; None: 1."""
    passing: dict[int, ReferenceType[torch.Tensor]] = field(default_factory=dict)
    """Number of a subset -> hidden states at the beginning of its span, while the forward's graph lives."""

    def __getstate__(self) -> dict[str, object]:
        # A copy has no forward under way.
        return {**vars(self), "passing": {}}

    @property
    def is_whole(self) -> bool:
        """Whether every layer processes all tokens of all rows."""
        return self.positions is None and not self.rows

    def rows_of(self, layer: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The rows that a layer processes, and what its changes of them are multiplied by; None: all, and 1."""
        return (self.rows[layer], self.row_scale[layer]) if self.rows else (None, None)

    def agrees_with(self, other: "KeptDraw") -> bool:
        """Whether both draws keep the same tokens and rows."""
        if self.is_whole or other.is_whole:
            return self.is_whole and other.is_whole
        mine = (self.place, self.num_rows, self.sequence_length)
        return mine == (other.place, other.num_rows, other.sequence_length)


class DrawMemory:
    """Hidden states that pending forward passes gave to layers or got from them -> their draw.

    Recomputation from outside a layer calls it again with the same hidden states, or with a detached
    tensor on the same storage: the storage tells the forward pass. It is not kept alive; a storage
    that is gone is forgotten, and a copy of the memory starts empty.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[StorageWeakRef, KeptDraw | None]] = {}

    def __reduce__(self) -> tuple[Callable[[], "DrawMemory"], tuple[()]]:
        return DrawMemory, ()

    def remember(self, hidden_states: torch.Tensor, draw: KeptDraw) -> None:
        """Notes that the hidden states belong to the draw."""
        storage = StorageWeakRef(hidden_states.untyped_storage())
        key = _key(hidden_states, storage)
        before = self._known.get(key)
        agreed: KeptDraw | None = draw
        if before is not None and (before[1] is None or not before[1].agrees_with(draw)):
            # Two forward passes got the same tensor: which of them is recomputed is not known.
            agreed = None
        self._known[key] = (storage, agreed)

    def recall(
        self, hidden_states: torch.Tensor, *, needed: bool, compiled: bool = False
    ) -> KeptDraw | None:
        """The draw that the hidden states belong to; None if that is not known and not needed.

        Args:
            compiled: the layer is compiled, and may not have been in the pending forward.

        Raises:
            RuntimeError: if it is needed and not known, or there are two.
        """
        storage = StorageWeakRef(hidden_states.untyped_storage())
        found = self._known.get(_key(hidden_states, storage))
        if not needed:
            return None if found is None else found[1]
        advice = (
            "recompute whole layers, uncompiled, with an activation checkpointing that hands back the "
            "tensors themselves (not partitioned, not moved to the CPU), or layers with a checkpointing "
            "of their own; call layers by themselves only after eval()"
        )
        if found is None or compiled:
            raise RuntimeError(
                "a layer with random-LTD was called outside a forward of its model, on hidden states "
                f"of no pending forward, so its subset of tokens is not known: {advice}"
            )
        if found[1] is None:
            raise RuntimeError(
                "a layer with random-LTD is recomputed on a tensor that two forwards with different "
                "subsets were given, so its subset of tokens is not known: give each forward a tensor "
                "of its own (x.clone())"
            )
        return found[1]

    def forget_the_gone(self) -> None:
        """Drops what belongs to storages that nobody holds any more."""
        self._known = {key: entry for key, entry in self._known.items() if not entry[0].expired()}


def _key(tensor: torch.Tensor, storage: StorageWeakRef) -> tuple[object, ...]:
    return storage.cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
