"""Pages of read-only maps are given back; what they hold stays."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.analysis.mapped_memory import (
    BYTES_BETWEEN_RELEASES,
    MappedMemory,
    release_pages,
)


def resident_bytes(path):
    """Memory of this process that holds pages of a file."""
    total, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            is_file = fields[-1] == str(path)
        elif is_file and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.bin"
    np.arange(2**20, dtype=np.int32).tofile(path)
    return path


def view_of(path, mode):
    if mode == "mmap":
        with open(path, "rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.int32)
    return np.memmap(path, np.int32, mode=mode)


@pytest.mark.parametrize("mode", ["mmap", "r"])
def test_read_only_maps_are_released(numbers, mode):
    view = view_of(numbers, mode)[100:].view(np.uint16)[8:]
    total = int(view.sum())
    assert resident_bytes(numbers) >= 2**22
    release_pages(view)
    assert resident_bytes(numbers) == 0
    assert int(view.sum()) == total


def test_changes_to_a_private_map_are_kept(numbers):
    view = view_of(numbers, "c")
    view[5] = 7
    release_pages(view)
    assert view[5] == 7


def test_plain_arrays_are_left_alone():
    array = np.arange(10)
    release_pages(array[2:])
    release_pages(np.frombuffer(b"abcd", np.uint8))
    assert array.tolist() == list(range(10))


def test_release_comes_now_and_then(numbers):
    view = view_of(numbers, "r")
    memory = MappedMemory()
    for _ in range(BYTES_BETWEEN_RELEASES // view.nbytes - 1):
        int(view.sum())
        memory.has_read(view)
        assert resident_bytes(numbers) >= 2**22
    memory.has_read(view)
    assert resident_bytes(numbers) == 0
