"""Writing a `.safetensors` file tensor by tensor, so that memory holds one of them and never all.

Source: the safetensors format: the header's length in eight bytes, the header in JSON, padded with
spaces to a multiple of eight, then all numbers. The bytes are those of `safetensors.torch.save_file`.
"""

import hashlib
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data_efficiency import NonFiniteError
from data_efficiency.engine.whole_tensor import WholeTensor
from megatron.checkpoint.pace import UNPACED, Pace

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls the dtypes that weights, buffers and optimizers have."""

_BLOCK_BYTES = 2**22
"""Looked through, written and hashed while it lies in the caches."""
_NUMPY_FLOATS = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}
_BFLOAT16_EXPONENT = np.uint16(0x7F80)
"""All its bits are set in what is not finite."""


def in_file_order(tensors: Iterable[WholeTensor]) -> list[WholeTensor]:
    """The order in which a file holds them: wide numbers first, so that all of them are aligned."""
    return sorted(tensors, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))


def write_tensor_file(
    path: Path, tensors: Iterable[WholeTensor], pace: Pace = UNPACED
) -> dict[str, Any]:
    """Size in bytes and SHA-256 of the file, for a manifest; computed from what is written.

    Takes one core at most, whatever number of threads PyTorch has, and of it what the pace allows: training may go on
    beside it. Processes that do not write gather the same tensors `in_file_order`.

    Raises:
        OSError: if the file cannot be written.
        ValueError: for a dtype that the format lacks, or a tensor that is not what was announced.
        NonFiniteError: for a number that is not finite: what cannot be trained on is not saved.
    """
    assert sys.byteorder == "little", "the format's numbers are little-endian"
    ordered = in_file_order(tensors)
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as file:
        started = time.thread_time()
        for block in _blocks(ordered):
            _write(file, block)
            digest.update(block)
            # Computing time, not the clock's: a busy neighbour or a slow disk is no work of this thread.
            pace.after(time.thread_time() - started)
            started = time.thread_time()
        num_bytes = file.tell()
    return {"num_bytes": num_bytes, "sha256": digest.hexdigest()}


def _blocks(tensors: Sequence[WholeTensor]) -> Iterator[memoryview]:
    """The file's bytes in order."""
    yield memoryview(_header(tensors))
    for tensor in tensors:
        content = _bytes_of(tensor)
        for start in range(0, content.size, _BLOCK_BYTES):
            block = content[start : start + _BLOCK_BYTES]
            if not _is_finite(block, tensor.dtype):
                raise NonFiniteError(
                    f"{tensor.name} has numbers that are not finite: no checkpoint is written"
                )
            yield block.data


def _write(file: io.FileIO, block: memoryview) -> None:
    """Write all of a block, also where the system takes it in parts."""
    while block:
        block = block[file.write(block) :]


def _is_finite(block: npt.NDArray[np.uint8], dtype: torch.dtype) -> bool:
    """Whether all numbers are, of a dtype that has others.

    NumPy does it in a twentieth of PyTorch's time, and on this thread alone.
    """
    if dtype == torch.bfloat16:
        exponents = block.view(np.uint16) & _BFLOAT16_EXPONENT
        return not bool((exponents == _BFLOAT16_EXPONENT).any())
    if dtype in _NUMPY_FLOATS:
        return bool(np.isfinite(block.view(_NUMPY_FLOATS[dtype])).all())
    return True


def _header(tensors: Sequence[WholeTensor]) -> bytes:
    entries: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        if tensor.dtype not in DTYPE_NAMES:
            raise ValueError(f"{tensor.name} has dtype {tensor.dtype}: safetensors has no such one")
        start = end
        end += torch.Size(tensor.shape).numel() * tensor.dtype.itemsize
        entries[tensor.name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: WholeTensor) -> npt.NDArray[np.uint8]:
    """The numbers of a gathered tensor, on the host; freed with the view."""
    found = tensor.gather()
    if tuple(found.shape) != tensor.shape or found.dtype != tensor.dtype:
        raise ValueError(
            f"{tensor.name} was announced as {tensor.dtype} {list(tensor.shape)} and is "
            f"{found.dtype} {list(found.shape)}"
        )
    flat = found.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
