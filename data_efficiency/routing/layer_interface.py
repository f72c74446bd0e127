"""How a layer is called: which of its arguments have a sequence axis, and where."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from data_efficiency.config import RandomLTDConfig
from data_efficiency.routing.token_ops import gather_tokens


@dataclass(frozen=True, kw_only=True)
class LayerInterface:
    """The arguments of a layer that get shorter when tokens are dropped.

    The hidden states are the first positional argument.
    """

    sequence_axis: int = 1
    """Sequence axis of the hidden states, 0 or 1; the other one is the batch axis."""
    masks: tuple[str, ...] = ()
    """Masks, batch first: [batch, keys], [batch, queries, keys] or [batch, heads, queries, keys]."""
    token_tables: Mapping[str, int] = field(default_factory=dict)
    """Name -> sequence axis of arguments with one entry a token, batch first; a batch of 1 serves all
    rows."""

    @property
    def batch_axis(self) -> int:
        """Batch axis of the hidden states."""
        return 1 - self.sequence_axis

    def shorten(self, name: str, value: Any, positions: torch.Tensor, sequence_length: int) -> Any:
        """The argument as the kept tokens need it.

        Args:
            name: of the argument.
            value: what the caller gave; anything without a sequence axis comes back as it is.
            positions: kept positions, int64 [num_rows, kept_length].
            sequence_length: tokens before dropping.

        Raises:
            ValueError: for a described argument of a shape that does not fit the sequence, and for
                a tensor that has an axis as long as the sequence but is not described.
            TypeError: for a described argument that is no tensor.
        """
        described = name in self.masks or name in self.token_tables
        if value is None or not described:
            _refuse_undescribed(name, value, sequence_length)
            return value
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"argument {name} is a {type(value).__name__}: random-LTD can shorten tensors only"
            )
        axes = _mask_axes(name, value) if name in self.masks else (self.token_tables[name],)
        num_rows = positions.shape[0]
        if value.shape[0] not in (1, num_rows):
            raise ValueError(
                f"argument {name} has shape {tuple(value.shape)}: the first axis must be the batch of "
                f"{num_rows} rows, or 1"
            )
        for axis in axes:
            if name in self.masks and value.shape[axis] == 1:
                continue
            if value.shape[axis] != sequence_length:
                raise ValueError(
                    f"argument {name} has shape {tuple(value.shape)}: axis {axis} must be as long as "
                    f"the sequence ({sequence_length})"
                )
            value = gather_tokens(value, positions, axis)
        return value


PRESETS: dict[str, LayerInterface] = {
    "megatron.model.transformer.TransformerLayer": LayerInterface(
        masks=("attention_mask",), token_tables={"rotary_cos": 1, "rotary_sin": 1}
    ),
}
"""Layer classes we know, by the module and name of the class."""


def interface_of(layer_class: type, settings: RandomLTDConfig) -> LayerInterface:
    """The preset of the class or of a class it derives from; else what the JSON says."""
    for ancestor in layer_class.__mro__:
        preset = PRESETS.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
        if preset is not None:
            return preset
    mask = settings.model_mask_name
    return LayerInterface(
        sequence_axis=1 if settings.hidden_state_order == "batch_seq_dim" else 0,
        masks=() if mask is None else (mask,),
    )


def _mask_axes(name: str, mask: torch.Tensor) -> tuple[int, ...]:
    """The sequence axes of a mask."""
    axes = {2: (1,), 3: (1, 2), 4: (2, 3)}.get(mask.dim())
    if axes is None:
        raise ValueError(
            f"mask {name} has shape {tuple(mask.shape)}: must be [batch, keys], "
            "[batch, queries, keys] or [batch, heads, queries, keys]"
        )
    return axes


def _refuse_undescribed(name: str, value: Any, sequence_length: int) -> None:
    for tensor in _tensors_in(value):
        if sequence_length in tensor.shape:
            raise ValueError(
                f"argument {name} holds a tensor of shape {tuple(tensor.shape)}, with an axis as long "
                f"as the sequence ({sequence_length}), but nothing says how to shorten it: name a "
                "mask in model_mask_name, or describe the layer in layer_interface.PRESETS"
            )


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
