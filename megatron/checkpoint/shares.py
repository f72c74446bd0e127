"""Which process writes which tensors of a checkpoint, into which file.

Tensors stay whole; a file has as many as make up a process's share. Below `LEAST_BYTES` a process there are fewer
files than processes, for a small model one. Source: names and index are those of Hugging Face's folders.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    """All of them, in the order of their files."""
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


def in_turns(shares: Shares) -> list[tuple[int, WholeTensor]]:
    """All tensors, each with the process that writes it, in an order that all processes gather them in.

    Each process's own come in the order of its file. The processes take turns, so that each writes what it has while the
    others get theirs.
    """
    own: list[deque[WholeTensor]] = [deque() for _ in range(shares.num_files)]
    for tensor in shares.tensors:
        own[shares.owners[tensor.name]].append(tensor)
    turns = []
    while any(own):
        turns += [(number, left.popleft()) for number, left in enumerate(own) if left]
    return turns


def held_on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that nothing changes any more."""
    return tensor.detach().to("cpu", copy=True)
