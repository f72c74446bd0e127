import copy
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter


@pytest.fixture
def prefix(tmp_path):
    """A corpus of two documents, [[1, 2, 3], []] and [[4, 500]]."""
    with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
        writer.add_documents(np.array([1, 2, 3, 4, 500]), [3, 0, 2], [2, 1])
    return tmp_path / "corpus"


def index_bytes(code, lengths, item_bytes):
    """An index put together from the format's table, one document a sequence."""
    starts = [item_bytes * sum(lengths[:number]) for number in range(len(lengths))]
    return (
        b"MMIDIDX\0\0"
        + struct.pack("<QB", 1, code)
        + struct.pack("<QQ", len(lengths), len(lengths) + 1)
        + struct.pack(f"<{len(lengths)}i", *lengths)
        + struct.pack(f"<{len(lengths)}q", *starts)
        + struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1))
    )


def write_foreign(folder, index, tokens):
    (folder / "foreign.idx").write_bytes(index)
    (folder / "foreign.bin").write_bytes(tokens)
    return folder / "foreign"


def test_reader_gives_back_what_was_written(prefix):
    corpus = IndexedDataset(prefix)
    assert len(corpus) == 3
    assert (corpus.num_documents, corpus.num_tokens, corpus.dtype.name) == (2, 5, "uint16")
    assert [row.tolist() for row in corpus] == [[1, 2, 3], [], [4, 500]]
    assert corpus[-1].tolist() == [4, 500]
    assert corpus.tokens.tolist() == [1, 2, 3, 4, 500]
    assert corpus.sequence_lengths.tolist() == [3, 0, 2]
    assert corpus.byte_offsets.tolist() == [0, 6, 6]
    assert corpus.offsets_of(np.arange(4)).tolist() == [0, 3, 3, 5]
    assert corpus.document_index.tolist() == [0, 2, 3]
    assert corpus.metadata is None
    with pytest.raises(IndexError, match="sequence 3 of a corpus of 3"):
        corpus[3]


@pytest.mark.parametrize(
    ("code", "dtype"),
    [*enumerate(["u1", "i1", "<i2", "<i4", "<i8"], start=1), (8, "<u2")],
)
def test_every_dtype_code_is_read(tmp_path, code, dtype):
    tokens = np.array([5, 6, 7], dtype=dtype)
    index = index_bytes(code, [1, 2], tokens.itemsize)
    corpus = IndexedDataset(write_foreign(tmp_path, index, tokens.tobytes()))
    assert [row.tolist() for row in corpus] == [[5], [6, 7]]


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 65535), max_size=6), max_size=8),
    num_calls=st.integers(1, 4),
)
def test_any_documents_survive_writing_in_any_number_of_calls(
    tmp_path_factory, documents, num_calls
):
    prefix = tmp_path_factory.mktemp("corpus") / "corpus"
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for part in np.array_split(np.arange(len(documents)), num_calls):
            rows = [documents[number] for number in part]
            tokens = np.array([token for row in rows for token in row], dtype=np.int64)
            writer.add_documents(tokens, [len(row) for row in rows])
    corpus = IndexedDataset(prefix)
    corpus.verify(65536)
    assert [row.tolist() for row in corpus] == documents
    lengths = [len(row) for row in documents]
    assert Path(f"{prefix}.idx").read_bytes() == index_bytes(8, lengths, 2)
    expected_tokens = struct.pack(f"<{sum(lengths)}H", *[t for row in documents for t in row])
    assert Path(f"{prefix}.bin").read_bytes() == expected_tokens


def test_views_outlive_the_corpus_and_cannot_be_written(prefix):
    row = IndexedDataset(prefix)[2]
    assert row.tolist() == [4, 500]
    assert np.shares_memory(row, row.base)
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 9


def test_a_copy_opens_the_files_again(prefix):
    corpus = IndexedDataset(prefix)
    other = copy.copy(corpus)
    assert other[0].tolist() == corpus[0].tolist()
    assert corpus.__reduce__() == (IndexedDataset, (str(prefix),))


@pytest.mark.parametrize(("ending", "place"), [("bin", 3), ("idx", 50)])
def test_content_hash_sees_every_byte_of_a_small_corpus(prefix, ending, place):
    before = IndexedDataset(prefix).content_hash()
    assert IndexedDataset(prefix).content_hash() == before
    change(prefix, ending, lambda content: put(place, bytes([content[place] ^ 1]))(content))
    assert IndexedDataset(prefix).content_hash() != before


def test_content_hash_of_a_large_corpus_reads_blocks_up_to_the_end(tmp_path):
    hashes = set()
    for last in (0, 1):
        tokens = np.zeros(3_000_000, dtype=np.uint16)
        tokens[-1] = last
        with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
            writer.add_documents(tokens, [len(tokens)])
        hashes.add(IndexedDataset(tmp_path / "corpus").content_hash())
    assert len(hashes) == 2


def test_a_large_corpus_with_a_sidecar_is_checked_whole(tmp_path):
    prefix = tmp_path / "corpus"
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        writer.add_documents(np.arange(8_000_000) % 50_000, [8_000_000])
        writer.finish({})
    before = IndexedDataset(prefix).content_hash()
    kept = np.zeros(16_000_000, bool)
    for number in range(64):
        start = number * (len(kept) - 65536) // 63
        kept[start : start + 65536] = True
    change(
        prefix,
        "bin",
        lambda content: np.where(kept, np.frombuffer(content, "u1"), 0).astype("u1").tobytes(),
    )
    with pytest.raises(
        ValueError, match=r"corpus\.bin was changed .*meta\.json says another SHA-256"
    ):
        IndexedDataset(prefix).content_hash()
    Path(f"{prefix}.meta.json").unlink()
    assert IndexedDataset(prefix).content_hash() == before  # as docs/checkpoints.md says


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_missing_file(prefix, ending):
    Path(f"{prefix}.{ending}").unlink()
    message = rf"corpus\.{ending}: no such file; .* PREFIX alone"
    with pytest.raises(FileNotFoundError, match=message):
        IndexedDataset(prefix)


def put(place, value):
    """A function of a file's content -> the same with other bytes at a place."""
    return lambda content: content[:place] + value + content[place + len(value) :]


def change(prefix, ending, spoil):
    path = Path(f"{prefix}.{ending}")
    path.write_bytes(spoil(path.read_bytes()))


@pytest.mark.parametrize(
    ("ending", "spoil", "message"),
    [
        (
            "bin",
            lambda tokens: tokens[:-2],
            r"8 bytes, .* 5 uint16 tokens \(10 bytes\).* truncated",
        ),
        ("bin", lambda tokens: bytes(100), r"not the one that belongs to this \.idx"),
        ("idx", lambda index: b"", "not an index of Megatron"),
        ("idx", lambda index: index[:20], "not an index of Megatron|truncated or damaged"),
        ("idx", lambda index: index[:60], "not an index of Megatron|truncated or damaged"),
        ("idx", put(0, b"TNTIDX"), "not an index of Megatron"),
        ("idx", put(9, b"\x02"), "version 2 of the format"),
        ("idx", put(17, b"\x0b"), "unknown dtype code 11"),
        ("idx", put(17, b"\x06"), r"code 6 is float64 .* DeepSpeed's .* for \['uint16'\]"),
        ("idx", put(17, b"\x07"), r"code 7 is float32 .* DeepSpeed's .* for \['uint32'\]"),
        ("idx", lambda index: index + bytes([0, 1, 0]), "a mode for each of its 3 sequences"),
        ("idx", lambda index: index + bytes(4), "truncated or damaged"),
        ("idx", put(34 + 12 * 3, b"\x01"), r"must run from 0 to 3, not \[1, 3\]"),
    ],
)
def test_files_that_are_no_corpus(prefix, ending, spoil, message):
    change(prefix, ending, spoil)
    with pytest.raises(ValueError, match=message):
        IndexedDataset(prefix)


@pytest.mark.parametrize(
    ("code", "dtype", "lengths"),
    [(7, "u4", [3, 2]), (6, "u2", [3, 2]), (8, "u8", [5]), (8, "u8", [5, 0])],
)
def test_index_file_of_deepspeed_is_recognised(tmp_path, code, dtype, lengths):
    tokens = np.arange(5, dtype=dtype)
    index = index_bytes(code, lengths, tokens.itemsize)
    with pytest.raises(ValueError, match=f"DeepSpeed's writer uses that code for .*{tokens.dtype}"):
        IndexedDataset(write_foreign(tmp_path, index, tokens.tobytes()))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (34 + 4 * 3 + 8, "row 1 starts at byte 7, but the lengths before it end at byte 6"),
        (34 + 12 * 3 + 8, "document index falls after document 1"),
    ],
)
def test_verify_finds_a_damaged_index(prefix, place, message):
    change(prefix, "idx", put(place, b"\x07"))
    with pytest.raises(ValueError, match=message):
        IndexedDataset(prefix).verify()


def test_verify_finds_a_token_outside_the_vocabulary(prefix):
    IndexedDataset(prefix).verify(501)
    with pytest.raises(ValueError, match="token id 500 is outside the vocabulary of 500"):
        IndexedDataset(prefix).verify(500)


def test_damaged_sidecar(prefix):
    Path(f"{prefix}.meta.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta\.json is not valid JSON"):
        _ = IndexedDataset(prefix).metadata


def test_an_index_that_is_not_its_sidecars_is_noticed_before_it_is_used(tmp_path):
    with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
        writer.add_documents(np.arange(40), [10] * 4)
        writer.finish({})
    change(tmp_path / "corpus", "idx", put(34 + 12 * 4 + 8, np.int64(-9).tobytes()))
    with pytest.raises(ValueError, match=r"corpus\.idx was changed .*meta\.json says another SHA"):
        GPTDataset(str(tmp_path / "corpus"), split="1", sequence_length=4)
    (tmp_path / "corpus.meta.json").unlink()
    corpus = IndexedDataset(tmp_path / "corpus")
    with pytest.raises(ValueError, match=r"corpus\.idx names what is not there: it is damaged"):
        corpus.offsets_of(corpus.document_index)


def test_corpus_without_any_token(tmp_path):
    with IndexedDatasetWriter(tmp_path / "empty", "int32"):
        pass
    corpus = IndexedDataset(tmp_path / "empty")
    corpus.verify(1)
    assert (len(corpus), corpus.num_tokens, corpus.num_documents) == (0, 0, 0)
    assert len(corpus.content_hash()) == 64
