"""Which process writes which tensors of a checkpoint, into which file.

Tensors stay whole; a file has as many as make up a process's share. Below `LEAST_BYTES` a process there are fewer
files than processes, for a small model one. Source: names and index are those of Hugging Face's folders.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from data_efficiency.engine.whole_tensor import WholeTensor
from megatron.checkpoint.tensor_file import in_file_order

LEAST_BYTES = 2**26
"""A file more must be worth it."""
_SUFFIX = ".safetensors"


def file_names(stem: str, num_files: int) -> list[str]:
    """What the files of one kind of tensors are called.

    Example:
        >>> file_names("model", 1)
        ['model.safetensors']
        >>> file_names("model", 2)
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    if num_files == 1:
        return [stem + _SUFFIX]
    return [f"{stem}-{k:05}-of-{num_files:05}{_SUFFIX}" for k in range(1, num_files + 1)]


def index_name(stem: str) -> str:
    """What the file is called that says which file a tensor is in, where there are several.

    Example:
        >>> index_name("model")
        'model.safetensors.index.json'
    """
    return f"{stem}{_SUFFIX}.index.json"


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The files of one kind of tensors, and the process that writes each: number 0 the first, and so on."""

    stem: str
    tensors: Sequence[WholeTensor]
    """All of them, in the order in which all processes gather them."""
    owners: Mapping[str, int]
    """Tensor -> number of its file, and of the process that writes it."""
    num_files: int

    @property
    def names(self) -> list[str]:
        """Of the files."""
        return file_names(self.stem, self.num_files)

    @property
    def index(self) -> dict[str, object]:
        """Content of the index."""
        names = self.names
        return {
            "metadata": {"total_size": sum(map(num_bytes, self.tensors))},
            "weight_map": {name: names[owner] for name, owner in sorted(self.owners.items())},
        }


def divide(stem: str, tensors: Iterable[WholeTensor], num_processes: int) -> Shares:
    """Files about equally large, the same division on every process."""
    ordered = in_file_order(tensors)
    total = sum(map(num_bytes, ordered))
    num_files = max(1, min(num_processes, len(ordered), total // max(1, LEAST_BYTES)))
    loads = [(0, number) for number in range(num_files)]
    owners = {}
    for tensor in sorted(ordered, key=lambda one: (-num_bytes(one), one.name)):
        load, number = heapq.heappop(loads)
        owners[tensor.name] = number
        heapq.heappush(loads, (load + num_bytes(tensor), number))
    return Shares(stem=stem, tensors=ordered, owners=owners, num_files=num_files)


def num_bytes(tensor: WholeTensor) -> int:
    """Of a tensor's numbers."""
    return torch.Size(tensor.shape).numel() * tensor.dtype.itemsize


class Turns:
    """Puts all tensors together in one order, each on the process that writes it, since all processes take part.

    Args:
        shares: all kinds, in order.
        number: of this process; what it does not own goes to others.
    """

    def __init__(self, shares: Sequence[Shares], number: int) -> None:
        self._left = deque((one, tensor) for one in shares for tensor in one.tensors)
        self._number = number

    def own(self, shares: Shares) -> list[WholeTensor]:
        """The tensors of this process's file, to be gathered in their order; none if it has no file."""
        return [
            replace(tensor, gather=partial(self._until, tensor), send=None)
            for tensor in shares.tensors
            if shares.owners[tensor.name] == self._number
        ]

    def finish(self) -> None:
        """Take part in what is left."""
        while self._left:
            self._take_part()

    def _take_part(self) -> tuple[WholeTensor, torch.Tensor | None]:
        """The next tensor, and what this process gets of it."""
        shares, tensor = self._left.popleft()
        return tensor, tensor.on(shares.owners[tensor.name])

    def _until(self, wanted: WholeTensor) -> torch.Tensor:
        while self._left:
            tensor, found = self._take_part()
            if tensor is wanted and found is not None:
                return found
        raise LookupError(f"{wanted.name} was gathered before")


def held_on_host(tensors: Iterable[WholeTensor]) -> list[WholeTensor]:
    """The tensors gathered now, copies that nothing changes any more."""
    copies = []
    for tensor in tensors:
        copy = tensor.gather().detach().to("cpu", copy=True)
        copies.append(replace(tensor, gather=partial(_same, copy), send=None))
    return copies


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
