"""Tensors that are announced before they are put together.

An engine that keeps its state in parts on several processes can so be written to disk tensor by
tensor: at any time one of them is whole.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True, kw_only=True)
class WholeTensor:
    """A weight, a buffer or a tensor of the optimizer: what it will be, and how to get it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    gather: Callable[[], torch.Tensor]
    """The tensor, on any device and on every process. A collective call: all processes gather the same
    tensors in the same order."""


def whole_tensors(tensors: Mapping[str, torch.Tensor]) -> list[WholeTensor]:
    """Tensors that are whole already, or in PyTorch's parts (DTensors); nothing is copied."""
    return [
        WholeTensor(
            name=name,
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            gather=partial(whole_of, tensor.detach()),
        )
        for name, tensor in tensors.items()
    ]


def whole_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or what its parts on all processes come to, by a collective call."""
    # Only who holds parts has imported what makes them.
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def gather_all(tensors: Iterable[WholeTensor], *, keep: bool = True) -> dict[str, torch.Tensor]:
    """All of them at once by their names, on the host.

    Args:
        tensors: what to gather.
        keep: whether this process wants them; without, it takes part and the result is empty.
    """
    gathered = {}
    for tensor in tensors:
        found = tensor.gather()
        if keep:
            gathered[tensor.name] = found.cpu()
    return gathered
