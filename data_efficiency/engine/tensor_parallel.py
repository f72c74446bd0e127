"""Tensor and sequence parallelism: processes of a group share each layer, and between layers each row.

A model says how it is cut, in PyTorch's own parts (`torch.distributed.tensor.parallel`): its weights become DTensors, its
layers take and give hidden states of their own tokens. Matrices that are several in one (queries, keys and values; gate and
up) are kept with each process's rows of all of them together, and written to checkpoints in their own order.
Source: Megatron-LM (Shoeybi et al., arXiv 1909.08053) and its sequence parallelism (Korthikanti et al., arXiv 2205.05198).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from data_efficiency.json_section import ConfigError

_BUCKET_NUMBERS = 2**25
"""Of gradients that travel together."""


@dataclass(frozen=True, kw_only=True)
class TensorParallel:
    """How a model is cut; see `initialize`."""

    cut: Callable[[nn.Module, DeviceMesh], None]
    """Cuts a layer, or what of the model is outside all layers, over a mesh of one axis: its parameters, whole and the same
    on every process, become DTensors there. Called for each layer, then for the model."""
    fused: Mapping[str, Sequence[int]]
    """Parameter -> rows of each matrix in it, for those that are several in one; each must be a multiple of the
    processes'."""


class RowGroup:
    """The processes that share each row; `data_efficiency.routing.row_shares.RowShares` for a mesh of one axis.

    Gradients are those of one process: what is whole has the same gradient on all.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self.size = mesh.size()

    def whole(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """All tokens, of the own ones."""
        return self._changed(tensor, Shard(axis), Replicate())

    def own(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """This process's tokens, of all; errors as of `refuse_uneven`."""
        self.refuse_uneven(tensor.shape[axis])
        # No view of another tensor: where a model changes one in place, FSDP2's hooks are lost.
        return self._changed(tensor, Replicate(), Shard(axis)).clone()

    def refuse_uneven(self, length: int) -> None:
        """Raise ValueError for a row that the processes cannot share evenly."""
        if length % self.size:
            raise ValueError(
                f"a row of {length} tokens cannot be shared evenly by {self.size} processes (tensor parallelism): make "
                'lengths a multiple of that, as a metric\'s "length_multiple" does'
            )

    def _changed(self, tensor: torch.Tensor, before: Any, after: Any) -> torch.Tensor:
        spread = DTensor.from_local(tensor, self._mesh, (before,), run_check=False)
        return spread.redistribute(placements=(after,)).to_local()


def by_process(sizes: Sequence[int], num_processes: int) -> torch.Tensor:
    """The order of rows in which each process's of every matrix stand together: place -> row, int64 [rows].

    Args:
        sizes: rows of each matrix.

    Example:
        >>> by_process((4, 2), 2).tolist()
        [0, 1, 4, 2, 3, 5]
    """
    if any(size % num_processes for size in sizes):
        raise ConfigError(
            f"a matrix of {tuple(sizes)} rows cannot be cut for {num_processes} processes: each must be a multiple"
        )
    rows = torch.arange(sum(sizes)).split(list(sizes))
    cut = [matrix.chunk(num_processes) for matrix in rows]
    return torch.cat([matrix[number] for number in range(num_processes) for matrix in cut])


class RowOrders:
    """Weights whose rows stand in another order than in checkpoints.

    Args:
        fused: as in `TensorParallel`.
        size: processes that share them.
    """

    def __init__(self, fused: Mapping[str, Sequence[int]] | None = None, size: int = 1) -> None:
        self._orders = {name: by_process(sizes, size) for name, sizes in (fused or {}).items()}
        self._inverses = {name: order.argsort() for name, order in self._orders.items()}

    def arranged(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """A weight as a checkpoint has it, or what has its shape -> as it is cut."""
        order = self._orders.get(name)
        return whole if order is None or not whole.ndim else whole[order.to(whole.device)]

    def restored(self, name: str, whole: torch.Tensor) -> torch.Tensor:
        """The inverse of `arranged`."""
        order = self._inverses.get(name)
        return whole if order is None or not whole.ndim else whole[order.to(whole.device)]

    @torch.no_grad()
    def arrange(self, module: nn.Module) -> None:
        """Arrange the module's weights."""
        for name in self._orders:
            weight = module.get_parameter(name)
            weight.copy_(self.arranged(name, weight.detach().clone()))


@torch.no_grad()
def complete_gradients(
    parameters: Iterable[torch.Tensor], group: torch.distributed.ProcessGroup | None, size: int
) -> None:
    """Sum what the processes of a row found for the weights that all of them hold, and average over the data's.

    Args:
        group: of the data-parallel processes that hold the same parts of the weights; None where there is one.
        size: how many.
    """
    own = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
            if gradient.placements != parameter.placements:
                gradient = gradient.redistribute(placements=parameter.placements)
                parameter.grad = gradient
            gradient = gradient.to_local()
        own.append(gradient)
    if group is None:
        return
    for bucket in _buckets(own):
        together = torch.cat([gradient.flatten() for gradient in bucket])
        torch.distributed.all_reduce(together, group=group)
        together /= size
        parts = together.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    """The tensors in order, as many together as make up a bucket, of one dtype each."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        is_full = sum(one.numel() for one in bucket) >= _BUCKET_NUMBERS
        if bucket and (is_full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
