import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.files import mmididx
from data_efficiency.files.mmididx import MEGATRON_CODES, IndexWriter

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


def write(path, dtype, *additions):
    writer = IndexWriter(path, MEGATRON_CODES[dtype], np.dtype(dtype).itemsize)
    for lengths, counts in additions:
        writer.add(np.array(lengths, np.int64), np.array(counts, np.int64))
    writer.finish()
    writer.close()
    return path.read_bytes()


def test_index_equals_the_bytes_written_by_hand(tmp_path):
    assert write(tmp_path / "a.idx", "int64", ([3, 1], [2])) == BY_HAND
    assert [path.name for path in tmp_path.iterdir()] == ["a.idx"]


def test_byte_offsets_do_not_wrap_at_four_gigabytes(tmp_path):
    content = write(tmp_path / "a.idx", "int32", ([2**31 - 1] * 5, [1] * 5))
    offsets = np.frombuffer(content, dtype="<i8", count=5, offset=34 + 4 * 5)
    assert offsets.tolist() == [4 * (2**31 - 1) * number for number in range(5)]


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=12),
    cut=st.integers(0, 12),
    block=st.integers(1, 7),
)
def test_neither_additions_nor_blocks_change_the_file(tmp_path_factory, documents, cut, block):
    folder = tmp_path_factory.mktemp("index")

    def addition(part):
        return [length for document in part for length in document], list(map(len, part))

    at_once = write(folder / "a.idx", "uint16", addition(documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmididx, "_BLOCK_ROWS", block)
        parts = (addition(documents[:cut]), addition(documents[cut:]))
        assert write(folder / "b.idx", "uint16", *parts) == at_once
    lengths, counts = (np.array(part, np.int64) for part in addition(documents))
    offsets = 2 * (np.cumsum(lengths) - lengths)
    assert at_once[34:] == b"".join(
        [lengths.astype("<i4").tobytes(), offsets.tobytes(), bytes(8), np.cumsum(counts).tobytes()]
    )
