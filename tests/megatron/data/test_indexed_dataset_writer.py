import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.files.indexed_dataset import path_of
from megatron.corpus.merging import find_corpora
from megatron.data import indexed_dataset_writer
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.indexed_dataset_writer import IndexedDatasetWriter, dtype_for_vocabulary


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_sidecar_counts_and_checksums(tmp_path):
    with IndexedDatasetWriter(tmp_path / "corpus", "int32") as writer:
        writer.add_documents(np.arange(70_000), [69_999, 1])
        writer.finish({"json_key": "text"})
    facts = json.loads((tmp_path / "corpus.meta.json").read_text())
    assert facts == {
        "json_key": "text",
        "dtype": "int32",
        "num_documents": 2,
        "num_sequences": 2,
        "num_tokens": 70_000,
        "bin_sha256": hashlib.sha256((tmp_path / "corpus.bin").read_bytes()).hexdigest(),
        "idx_sha256": hashlib.sha256((tmp_path / "corpus.idx").read_bytes()).hexdigest(),
    }
    assert names(tmp_path) == ["corpus.bin", "corpus.idx", "corpus.meta.json"]


def test_large_writes_go_out_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed_dataset_writer, "_BLOCK_TOKENS", 3)
    tokens = np.arange(20)[::2]
    with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
        writer.add_documents(tokens, [10])
    assert IndexedDataset(tmp_path / "corpus").tokens.tolist() == tokens.tolist()


def write_and_fail(prefix):
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        writer.add_documents(np.array([2]), [1])
        raise RuntimeError("in the middle")


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="in the middle"):
        write_and_fail(tmp_path / "corpus")
    assert names(tmp_path) == []


def test_failure_leaves_an_older_corpus_alone(tmp_path):
    with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
        writer.add_documents(np.array([1]), [1])
    with pytest.raises(RuntimeError, match="in the middle"):
        write_and_fail(tmp_path / "corpus")
    assert IndexedDataset(tmp_path / "corpus").tokens.tolist() == [1]
    assert names(tmp_path) == ["corpus.bin", "corpus.idx"]


def test_no_index_stands_while_the_tokens_are_replaced(tmp_path, monkeypatch):
    write(tmp_path / "corpus", [1], {})
    renamed = []
    replace = Path.replace

    def watch(self, target):
        renamed.append(Path(target).name)
        assert (tmp_path / "corpus.idx").exists() == (renamed == ["corpus.idx.new"])
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    write(tmp_path / "corpus", [2, 3])
    assert renamed == ["corpus.idx.new", "corpus.bin", "corpus.meta.json", "corpus.idx"]
    assert IndexedDataset(tmp_path / "corpus").metadata is None
    assert names(tmp_path) == ["corpus.bin", "corpus.idx"]


def write(prefix, tokens, metadata=None):
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        writer.add_documents(np.array(tokens), [len(tokens)])
        writer.finish(metadata)


@pytest.mark.parametrize("metadata", [None, {"about": "new"}])
@pytest.mark.parametrize("number", range(8))
def test_wherever_renaming_ends_one_corpus_is_whole(tmp_path, monkeypatch, number, metadata):
    """And the next writer, or nothing but reading, makes do with what is left."""
    write(tmp_path / "corpus", [1, 2, 3], {"about": "old"})
    calls = []

    def fail(name):
        kept = getattr(Path, name)

        def act(self, *args, **named):
            calls.append(name)
            if len(calls) > number:
                raise OSError(5, "Input/output error")
            return kept(self, *args, **named)

        monkeypatch.setattr(Path, name, act)

    for name in ("replace", "unlink"):
        fail(name)
    if number < 5:
        with pytest.raises(OSError, match=r"corpus: the corpus .* \(Input/output error\)"):
            write(tmp_path / "corpus", [4, 5], metadata)
    else:
        write(tmp_path / "corpus", [4, 5], metadata)
    monkeypatch.undo()
    corpus = IndexedDataset(tmp_path / "corpus")
    is_new = number > 0
    assert corpus.tokens.tolist() == ([4, 5] if is_new else [1, 2, 3])
    about = (metadata or {}).get("about") if is_new else "old"
    assert (corpus.metadata or {}).get("about") == about
    assert find_corpora([tmp_path]) == [str(tmp_path / "corpus")]
    write(tmp_path / "corpus", [6])
    assert IndexedDataset(tmp_path / "corpus").tokens.tolist() == [6]
    assert names(tmp_path) == ["corpus.bin", "corpus.idx"]


def test_killed_writer_leaves_no_index_and_the_next_one_works(tmp_path):
    program = (
        "import sys, numpy as np, time\n"
        "from megatron.data.indexed_dataset_writer import IndexedDatasetWriter\n"
        "writer = IndexedDatasetWriter(sys.argv[1], 'uint16')\n"
        "writer.add_documents(np.arange(60000), [60000])\n"
        "print('written', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "corpus")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(BlockingIOError, match="is at work on"):
            IndexedDatasetWriter(tmp_path / "corpus", "uint16")
        os.kill(process.pid, signal.SIGKILL)
    assert names(tmp_path) == [".corpus.lock", "corpus.bin.partial", "corpus.idx.partial"]
    with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
        writer.add_documents(np.array([5]), [1])
    assert IndexedDataset(tmp_path / "corpus").tokens.tolist() == [5]
    assert names(tmp_path) == ["corpus.bin", "corpus.idx"]


@pytest.mark.parametrize(
    ("tokens", "lengths", "counts", "message"),
    [
        ([1, 2], [1], None, "2 tokens, but the lengths add up to 1"),
        ([1], [2, -1], None, "must have 0 to 2147483647 tokens"),
        ([1], [1], [2], "1 sequences cannot group as 2"),
        ([65536], [1], None, "token id 65536 does not fit uint16"),
        ([-1], [1], None, "token id -1 does not fit uint16"),
    ],
)
def test_wrong_documents(tmp_path, tokens, lengths, counts, message):
    with (
        pytest.raises(ValueError, match=message),
        IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer,
    ):
        writer.add_documents(np.array(tokens), lengths, counts)
    assert names(tmp_path) == []


@pytest.mark.parametrize("dtype", ["float32", "uint32"])
def test_dtype_the_format_cannot_hold(tmp_path, dtype):
    with pytest.raises(ValueError, match=f"dtype {dtype} cannot hold tokens; take one of"):
        IndexedDatasetWriter(tmp_path / "corpus", dtype)
    assert names(tmp_path) == []


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/folder: cannot be written to \("):
        IndexedDatasetWriter(tmp_path / "file" / "folder" / "corpus", "uint16")


@pytest.mark.parametrize("num_tokens", [10_000, 300_000])
def test_full_disk_is_told_and_leaves_nothing(small_disk, num_tokens):
    """Few tokens fail when they are written out at the end, many when they are added."""
    prefix = small_disk / "corpus"
    (small_disk / "filler").write_bytes(bytes(50_000))
    with (
        pytest.raises(OSError, match=r"disk/corpus: the corpus cannot be written \(No space left"),
        IndexedDatasetWriter(prefix, "uint16") as writer,
    ):
        writer.add_documents(np.zeros(num_tokens, np.uint16), [num_tokens])
    assert names(small_disk) == ["filler"]


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(257, "uint16"), (65499, "uint16"), (65500, "int32")]
)
def test_dtype_follows_the_vocabulary(vocab_size, name):
    assert dtype_for_vocabulary(vocab_size).name == name


def test_path_keeps_dots_of_the_prefix():
    assert str(path_of("a/b.v1", "bin")) == "a/b.v1.bin"
