import numpy as np
import pytest

from megatron.data.indexed_format import (
    CODE_OF_DTYPE,
    DTYPE_OF_CODE,
    dtype_for_vocabulary,
    index_content,
    path_of,
)

# Written out by hand from the table of the format: rows [1, 2, 3] and [4] in one document, int64.
BY_HAND = bytes.fromhex(
    "4d4d49444944580000"  # magic
    "0100000000000000"  # version
    "05"  # int64
    "0200000000000000"  # sequences
    "0200000000000000"  # entries of the document index
    "03000000 01000000"  # lengths in tokens
    "0000000000000000 1800000000000000"  # offsets in bytes
    "0000000000000000 0200000000000000"  # document index
)


def test_index_equals_the_bytes_written_by_hand() -> None:
    lengths = np.array([3, 1], dtype=np.int32)
    assert index_content(np.dtype("<i8"), lengths, np.array([2])) == BY_HAND
    assert len(BY_HAND) == 34 + 12 * 2 + 8 * 2


def test_byte_offsets_do_not_wrap_at_four_gigabytes() -> None:
    lengths = np.full(5, 2**31 - 1, dtype=np.int32)
    content = index_content(np.dtype("<i4"), lengths, np.ones(5, dtype=np.int64))
    offsets = np.frombuffer(content, dtype="<i8", count=5, offset=34 + 4 * 5)
    assert offsets.tolist() == [4 * (2**31 - 1) * number for number in range(5)]


def test_dtype_codes_are_the_published_ones() -> None:
    names = {code: dtype.name for code, dtype in DTYPE_OF_CODE.items()}
    assert names == {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float64",
        7: "float32",
        8: "uint16",
    }
    assert CODE_OF_DTYPE[np.dtype(np.uint16)] == 8


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(257, "uint16"), (65499, "uint16"), (65500, "int32")]
)
def test_dtype_follows_the_vocabulary(vocab_size: int, name: str) -> None:
    assert dtype_for_vocabulary(vocab_size).name == name


def test_path_keeps_dots_of_the_prefix() -> None:
    assert str(path_of("a/b.v1", "bin")) == "a/b.v1.bin"
