"""Places by URL behave as paths do, and what cannot be reached says why."""

import copy
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_efficiency.files.remote import RemoteNumbers, RemotePath, location


def put(path, content, tmp_path):
    file = tmp_path / "to put"
    file.write_bytes(content)
    path.put(file)


def test_a_file_is_put_read_fetched_and_removed(storage, tmp_path):
    file = storage / "a" / "b.txt"
    assert not file.exists()
    assert not storage.exists()
    put(file, b"abcdef", tmp_path)
    assert file.exists()
    assert file.is_file()
    assert not file.is_dir()
    assert (storage / "a").is_dir()
    assert not (storage / "a").is_file()
    assert (file.num_bytes(), file.read_bytes(), file.read_bytes(1, 3)) == (6, b"abcdef", b"bc")
    with file.open("rb") as opened:
        assert opened.read(2) == b"ab"
    file.fetch(tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"abcdef"
    put(file, b"other", tmp_path)
    assert file.read_text() == "other"
    file.unlink()
    assert not file.exists()
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"memory://.*/b.txt: no such file"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        file.read_bytes()


def test_names_of_files_and_patterns(storage, tmp_path):
    for name in ("b/1.npy", "b/1.json", "b/c/2.json", "a.json", "bb/3.json"):
        put(storage / name, b"x", tmp_path)
    assert storage.names() == ["a.json", "b/1.json", "b/1.npy", "b/c/2.json", "bb/3.json"]
    assert (storage / "b").files() == [
        storage / name for name in storage.names() if name[:2] == "b/"
    ]
    assert storage.glob("*.json") == [storage / "a.json"]
    assert storage.glob("*/*.json") == [storage / "b/1.json", storage / "bb/3.json"]
    assert (storage / "nothing").names() == []
    before = storage.versions()
    assert list(before) == storage.names()
    put(storage / "a.json", b"xy", tmp_path)
    changed = {name for name, version in storage.versions().items() if version != before[name]}
    assert changed == {"a.json"}
    (storage / "b").remove_all()
    assert storage.names() == ["a.json", "bb/3.json"]


def test_parts_of_a_name():
    file = RemotePath("s3://bucket/a/b.tar.gz")
    assert (file.name, file.suffix) == ("b.tar.gz", ".gz")
    assert file.parent == RemotePath("s3://bucket/a/")
    assert file.with_name("c") == RemotePath("s3://bucket/a") / "c"
    assert copy.deepcopy(file) == file
    assert {file: 1}[RemotePath("s3://bucket/a/b.tar.gz")] == 1
    assert file != "s3://bucket/a/b.tar.gz"
    assert not file.is_of_one_process
    assert RemotePath("memory://a").is_of_one_process
    assert RemotePath("simplecache::memory://a").is_of_one_process


def test_which_texts_are_urls(tmp_path):
    assert location("a/b") == Path("a/b")
    assert location(tmp_path) == tmp_path
    assert location(f"file://{tmp_path}") == tmp_path
    assert location("gs://a/b") == RemotePath("gs://a/b")
    assert location(RemotePath("gs://a")) == RemotePath("gs://a")
    with pytest.raises(
        ValueError, match="s3:/a/b was a URL before it was a Path: give it as a text"
    ):
        location(Path("s3://a/b"))
    (tmp_path / "s3:").mkdir()
    assert location(tmp_path / "s3:") == tmp_path / "s3:"


def test_what_cannot_be_reached_says_why(storage, monkeypatch):
    with pytest.raises(
        ValueError, match=r"nothing://a: fsspec knows no storage of the kind nothing://"
    ):
        RemotePath("nothing://a").exists()
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    message = (
        r"s3://a: s3:// needs a package \(Install s3fs .*\): pip install 'data-efficiency\[s3\]'"
    )
    with pytest.raises(ModuleNotFoundError, match=message):
        RemotePath("s3://a").exists()

    class NoCredentialsError(Exception):
        pass

    for error, kind, text in (
        (NoCredentialsError("none found"), OSError, "NoCredentialsError: none found"),
        (PermissionError("Forbidden"), PermissionError, "PermissionError: Forbidden"),
    ):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", refuse)
        with pytest.raises(
            kind, match=f"memory://.*/a: cannot be reached \\({text}\\); credentials"
        ):
            (storage / "a").read_bytes()


def test_numbers_are_read_by_ranges(storage, tmp_path, monkeypatch):
    numbers = np.arange(1000, dtype="<u2")
    put(storage / "n", numbers.tobytes(), tmp_path)
    read = []
    original = RemotePath.read_bytes

    def record(path, first=None, last=None):
        read.append((first, last))
        return original(path, first, last)

    monkeypatch.setattr(RemotePath, "read_bytes", record)
    found = RemoteNumbers(storage / "n", np.dtype(np.uint8)).view("<u2")
    assert (len(found), found.nbytes, found.dtype) == (1000, 2000, np.dtype("<u2"))
    part = found[10:900][5:7]
    assert read == []
    assert np.asarray(part).tolist() == [15, 16]
    assert read == [(30, 34)]
    assert np.asarray(part.view(np.uint8)).tolist() == [15, 0, 16, 0]
    assert np.asarray(part, dtype=np.int64).dtype == np.int64
    assert np.asarray(found[-3:]).tolist() == [997, 998, 999]
    assert np.asarray(found[5:2]).tolist() == []
    assert np.asarray(found[2000:]).tolist() == []
    for wrong in (3, slice(0, 10, 2), np.arange(3)):
        with pytest.raises(
            ValueError, match="is read in runs of numbers, for analysis; to train on it"
        ):
            found[wrong]
    put(storage / "n", b"ab", tmp_path)
    with pytest.raises(ValueError, match="n became shorter while it was read"):
        np.asarray(found[-3:])
