"""Tensors that are announced before they are put together.

An engine that keeps its state in parts on several processes can so be written to disk tensor by
tensor: at any time one of them is whole.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
    send: Callable[[int], torch.Tensor | None] | None = None
    """The tensor on one process, by its number, and None on the others: a cheaper collective call, where there is one."""

    def on(self, process: int) -> torch.Tensor | None:
        """The tensor on one process, as cheaply as it goes; on the others None, or the tensor too. A collective call."""
        return self.gather() if self.send is None else self.send(process)

    def then(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "WholeTensor":
        """What a change, which keeps shape and dtype, makes of the tensor once it is gathered."""

        def sent(process: int) -> torch.Tensor | None:
            found = self.on(process)
            return None if found is None else change(found)

        return replace(self, gather=lambda: change(self.gather()), send=sent)


def whole_tensors(tensors: Mapping[str, torch.Tensor]) -> list[WholeTensor]:
    """Tensors that are whole already, or in PyTorch's parts (DTensors); nothing is copied."""
    return [
        WholeTensor(
            name=name,
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            gather=partial(whole_of, tensor.detach()),
            send=partial(_rows_on, tensor.detach()) if _is_cut_by_rows(tensor) else None,
        )
        for name, tensor in tensors.items()
    ]


def whole_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or what its parts on all processes come to, by a collective call."""
    # Only who holds parts has imported what makes them.
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def _is_cut_by_rows(tensor: Any) -> bool:
    """Whether each process of the job holds some of the rows, in the processes' order, as FSDP2 cuts weights."""
    if not hasattr(tensor, "full_tensor"):
        return False
    world = torch.distributed.get_world_size()
    by_rows = len(tensor.placements) == 1 and tensor.placements[0].is_shard(0)
    return by_rows and tensor.device_mesh.mesh.flatten().tolist() == list(range(world))


def _rows_on(tensor: Any, process: int) -> torch.Tensor | None:
    """All rows on one process. The last processes have fewer rows than the others, or none; what travels is equally long."""
    own, group = tensor.to_local(), tensor.device_mesh.get_group()
    num_rows = -(-tensor.shape[0] // group.size())
    num_bytes = num_rows * tensor[:1].numel() * own.dtype.itemsize
    # As bytes: which numbers a backend can send is not asked.
    part = torch.empty(num_bytes, dtype=torch.uint8, device=own.device)
    sent = own.contiguous().flatten().view(torch.uint8)
    part[: sent.numel()] = sent
    if group.rank() != process:
        torch.distributed.gather(part, group=group, group_dst=process)
        return None
    whole = part.new_empty(group.size() * num_bytes)
    torch.distributed.gather(part, list(whole.chunk(group.size())), group=group, group_dst=process)
    wanted = tensor.shape.numel() * own.dtype.itemsize
    return whole[:wanted].view(own.dtype).view(tensor.shape)


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
