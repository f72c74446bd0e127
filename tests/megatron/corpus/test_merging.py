import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megatron.corpus import merging
from megatron.corpus.merging import find_corpora, merge_corpora
from megatron.corpus.preprocessing import preprocess
from megatron.corpus.text_sources import find_sources
from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.megatron.corpus.test_preprocessing import RECORDS, ByteTokenizer, job_of

ENDINGS = ("bin", "idx", "meta.json")
FACTS = {
    "tokenizer_fingerprint": "t",
    "eod": 9,
    "num_empty_documents": 1,
    "sources": [{"path": "x"}],
}


def write(prefix, rows, counts, **changes):
    """A corpus of sequences and sequences per document; `changes` of the sidecar, `dtype` apart."""
    with IndexedDatasetWriter(prefix, str(changes.pop("dtype", "uint16"))) as writer:
        writer.add_documents(
            np.array([token for row in rows for token in row]), list(map(len, rows)), counts
        )
        writer.finish(FACTS | changes)
    return prefix


@pytest.fixture
def first(tmp_path):
    return write(tmp_path / "first", [[1, 2, 3], [], [4, 500]], [2, 0, 1])


@pytest.fixture
def second(tmp_path):
    return write(tmp_path / "second", [[7]], [1])


def left_over(folder):
    return list(folder.glob("merged*"))


@pytest.mark.parametrize(("run_bytes", "run_documents"), [(1, 1), (2, 2), (6, 9), (10**6, 10**6)])
def test_merging_keeps_sequences_documents_and_counts(
    tmp_path, first, second, monkeypatch, run_bytes, run_documents
):
    monkeypatch.setattr(merging, "_RUN_BYTES", run_bytes)
    monkeypatch.setattr(merging, "_RUN_DOCUMENTS", run_documents)
    merged = merge_corpora([first, second, first], tmp_path / "merged")
    merged.verify()
    rows = [[1, 2, 3], [], [4, 500]]
    assert [row.tolist() for row in merged] == [*rows, [7], *rows]
    assert merged.document_index.tolist() == [0, 2, 2, 3, 4, 6, 6, 7]
    assert merged.metadata is not None
    assert merged.metadata["num_empty_documents"] == 3
    assert merged.metadata["sources"] == [{"path": "x"}] * 3
    assert (merged.metadata["eod"], merged.metadata["num_documents"]) == (9, 7)


def test_merged_files_are_those_of_all_input_at_once(tmp_path):
    texts, prefixes = [], []
    for number, records in enumerate((RECORDS[:50], [{"text": " "}, *RECORDS[50:]])):
        job = job_of(tmp_path / str(number), records)
        preprocess(job)
        texts.append(job.sources[0].path)
        prefixes.append(job.corpus_prefix("text"))
    whole = job_of(tmp_path / "whole", sources=find_sources(texts)[0])
    preprocess(whole)
    merge_corpora(prefixes, tmp_path / "merged")
    for ending in ENDINGS:
        expected = Path(f"{whole.corpus_prefix('text')}.{ending}").read_bytes()
        assert (tmp_path / f"merged.{ending}").read_bytes() == expected, ending
    assert ByteTokenizer.fingerprint in (tmp_path / "merged.meta.json").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int32"}, r"other\.idx: int32 tokens cannot join the uint16 tokens of .*first"),
        (
            {"tokenizer_fingerprint": "u"},
            r"other: tokenizer_fingerprint is 'u', but 't' in .*first; only corpora made alike",
        ),
        ({"eod": None}, r"other: eod is None, but 9 in"),
        ({"more": 1}, r"other: more is 1, but None in"),
    ],
)
def test_corpora_made_differently_are_refused(tmp_path, first, changes, message):
    other = write(tmp_path / "other", [[7]], [1], **changes)
    with pytest.raises(ValueError, match=message):
        merge_corpora([first, other], tmp_path / "merged")
    assert not left_over(tmp_path)


def test_corpora_of_unknown_origin_are_merged_only_when_asked(tmp_path, first, second):
    Path(f"{second}.meta.json").unlink()
    with pytest.raises(ValueError, match=r"second\.meta\.json: no such file, so the tokenizer of"):
        merge_corpora([first, second], tmp_path / "merged")
    merged = merge_corpora([first, second], tmp_path / "merged", with_metadata=False)
    assert (merged.num_documents, merged.metadata) == (4, None)


def test_damaged_corpora_are_noticed_and_nothing_is_left(tmp_path, first, second):
    tokens = Path(f"{second}.bin")
    tokens.write_bytes(b"\x08\x00")
    with pytest.raises(ValueError, match=r"second\.bin: the checksum differs from the sidecar's"):
        merge_corpora([first, second], tmp_path / "merged")
    index = bytearray(Path(f"{first}.idx").read_bytes())
    index[34 + 12 + 8] = 1
    Path(f"{first}.idx").write_bytes(index)
    with pytest.raises(ValueError, match=r"first\.idx: row 1 starts at byte 1, but"):
        merge_corpora([first, second], tmp_path / "merged")
    assert not left_over(tmp_path)


def test_full_disk_leaves_nothing(tmp_path, small_disk):
    large = write(tmp_path / "large", [[1] * 50_000], [1])
    with pytest.raises(OSError, match=r"merged: the corpus cannot be written \(No space left"):
        merge_corpora([large], small_disk / "merged")
    assert not list(small_disk.iterdir())


def test_existing_corpora_are_safe(tmp_path, first, second):
    shutil.copy(f"{second}.idx", tmp_path / "merged.idx")
    with pytest.raises(FileExistsError, match=r"merged\.idx: exists; give --overwrite"):
        merge_corpora([first], tmp_path / "merged")
    assert merge_corpora([first], tmp_path / "merged", overwrite=True).num_documents == 3
    with pytest.raises(ValueError, match="first.bin would be written over the input"):
        merge_corpora([first, second], tmp_path / "first", overwrite=True)
    with pytest.raises(ValueError, match="no corpus to merge"):
        merge_corpora([], tmp_path / "other")


def test_folders_give_their_corpora_by_name(tmp_path, first, second):
    (tmp_path / ".hidden.idx").touch()
    (tmp_path / "text.jsonl").write_text(json.dumps({}))
    assert find_corpora([second, first]) == [str(second), str(first)]
    assert find_corpora([tmp_path]) == [str(first), str(second)]
    with pytest.raises(ValueError, match="second: given twice among the corpora"):
        find_corpora([second, tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no corpus \(PREFIX\.bin and"):
        find_corpora([tmp_path / "empty"])
