"""Copies of other storage: made once, checked, and never another content's."""

import json

import numpy as np
import pytest

from data_efficiency.files import local_copy
from data_efficiency.files.local_copy import cache_folder, local_folder, local_result
from data_efficiency.files.result_folder import new_folder, write_array, write_manifest


def write(target, values, **options):
    with new_folder(target, **options) as folder:
        entry = write_array(folder / "values.npy", np.array(values))
        write_manifest(folder, {"format": "f", "version": 1, "files": {"values.npy": entry}})


def test_a_result_is_copied_once_and_named_as_it_is(storage, tmp_path, monkeypatch):
    write(storage / "d", [1, 2])
    copy = local_result(storage / "d")
    assert copy.is_relative_to(tmp_path / "cache")
    assert str(copy).endswith(str(storage / "d").removeprefix("memory://"))
    assert np.load(copy / "values.npy").tolist() == [1, 2]
    assert (copy / "manifest.json").read_bytes() == (storage / "d" / "manifest.json").read_bytes()
    monkeypatch.setattr(local_copy, "_fetch", None)
    assert local_result(storage / "d") == copy
    assert local_result(tmp_path) == tmp_path


def test_another_result_has_another_copy(storage):
    write(storage / "d", [1, 2])
    first = local_result(storage / "d")
    write(storage / "d", [3], overwrite=True)
    second = local_result(storage / "d")
    assert np.load(first / "values.npy").tolist() == [1, 2]
    assert np.load(second / "values.npy").tolist() == [3]


def test_what_is_damaged_or_missing_is_not_copied(storage, tmp_path):
    write(storage / "d", [1, 2])
    (tmp_path / "other").write_bytes(b"other")
    (storage / "d" / "values.npy").put(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"d/values.npy is not the file of its manifest \(other SHA-256\)"
    ):
        local_result(storage / "d")
    (storage / "d" / "values.npy").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"d/values.npy is missing; analyze the dataset again"
    ):
        local_result(storage / "d")
    assert not list((tmp_path / "cache").rglob("*.npy"))
    (tmp_path / "manifest").write_text(json.dumps({"format": "f"}))
    (storage / "d" / "manifest.json").put(tmp_path / "manifest")
    with pytest.raises(ValueError, match=r"d/manifest.json is damaged or of another form"):
        local_result(storage / "d")
    with pytest.raises(FileNotFoundError, match=r"e/manifest.json: no such file"):
        local_result(storage / "e")


def test_a_folder_is_copied_with_all_below_it(storage, tmp_path):
    for name, text in (("a.json", "1"), ("b/c.json", "2")):
        (tmp_path / "file").write_text(text)
        (storage / name).put(tmp_path / "file")
    copy = local_folder(storage)
    assert (copy / "b" / "c.json").read_text() == "2"
    assert local_folder(storage) == copy
    (tmp_path / "file").write_text("changed")
    (storage / "a.json").put(tmp_path / "file")
    assert (local_folder(storage) / "a.json").read_text() == "changed"
    assert (copy / "a.json").read_text() == "1"
    assert local_folder(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        local_folder(storage / "nothing")


def test_where_copies_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("DATA_EFFICIENCY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "data-efficiency"
    monkeypatch.setenv("DATA_EFFICIENCY_CACHE", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c"
