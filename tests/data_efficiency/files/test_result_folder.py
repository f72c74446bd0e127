"""Result folders appear whole or not at all."""

import pytest

from data_efficiency.files import result_folder
from data_efficiency.files.result_folder import is_result, new_folder


def fill(folder, text):
    (folder / "manifest.json").write_text(text)


def fill_and_fail(target, text, overwrite=False):
    with new_folder(target, overwrite=overwrite) as folder:
        fill(folder, text)
        raise RuntimeError("stop")


def test_folder_appears_at_the_end_with_its_parents(tmp_path):
    target = tmp_path / "a" / "b"
    with new_folder(target) as folder:
        fill(folder, "1")
        assert not target.exists()
    assert (target / "manifest.json").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_an_error_leaves_nothing_or_the_old_folder(tmp_path):
    target = tmp_path / "b"
    with pytest.raises(RuntimeError, match="stop"):
        fill_and_fail(target, "1")
    assert list(tmp_path.iterdir()) == []
    with new_folder(target) as folder:
        fill(folder, "1")
    with pytest.raises(RuntimeError, match="stop"):
        fill_and_fail(target, "2", overwrite=True)
    assert (target / "manifest.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    target = tmp_path / "b"
    with new_folder(target) as folder:
        fill(folder, "1")
    rename = type(target).rename

    def refuse(path, destination):
        if path.name.endswith(".partial"):
            raise OSError("disk full")
        return rename(path, destination)

    monkeypatch.setattr(result_folder, "_exchange", lambda *_: False)
    monkeypatch.setattr(type(target), "rename", refuse)
    with pytest.raises(OSError, match="disk full"), new_folder(target, overwrite=True) as folder:
        fill(folder, "2")
    assert (target / "manifest.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_only_results_are_overwritten(tmp_path):
    target = tmp_path / "home"
    target.mkdir()
    with new_folder(target) as folder:
        fill(folder, "1")
    (target / "manifest.json").rename(target / "thesis.tex")
    message = "home is not a finished result and will not be overwritten"
    with pytest.raises(FileExistsError, match=message), new_folder(target, overwrite=True):
        pass
    assert (target / "thesis.tex").exists()


def names(storage):
    return {name: (storage / name).read_text() for name in storage.names()}


def test_on_other_storage_the_manifest_comes_last_and_goes_first(storage, monkeypatch):
    """A kill at any put or removal leaves the old result, the new one, or none: never a mixture."""
    seen = []
    for name in ("put", "unlink"):
        original = getattr(type(storage), name)

        def record(path, *arguments, original=original, **options):
            seen.append(names(storage))
            return original(path, *arguments, **options)

        monkeypatch.setattr(type(storage), name, record)
    for text in ("1", "2"):
        with new_folder(storage / "d", overwrite=text == "2") as folder:
            for name in ("manifest.json", "a.npy", "z.npy"):
                (folder / name).write_text(text)
    seen.append(names(storage))
    whole = [found for found in seen if "d/manifest.json" in found]
    wanted = ("d/manifest.json", "d/a.npy", "d/z.npy")
    assert whole == [dict.fromkeys(sorted(wanted), text) for text in "12"]
    assert len(seen) == 9


def test_on_other_storage_results_alone_are_replaced(storage, tmp_path):
    with new_folder(storage / "d") as folder:
        fill(folder, "1")
    with pytest.raises(FileExistsError, match="d already exists; remove it or pass overwrite=True"):
        fill_and_fail(storage / "d", "2")
    with pytest.raises(RuntimeError, match="stop"):
        fill_and_fail(storage / "d", "2", overwrite=True)
    assert names(storage) == {"d/manifest.json": "1"}
    (tmp_path / "note").write_text("mine")
    (storage / "e" / "note").put(tmp_path / "note")
    with (
        pytest.raises(FileExistsError, match=r"e is not a finished result .*: it holds note"),
        new_folder(storage / "e", overwrite=True) as folder,
    ):
        fill(folder, "1")
    assert names(storage / "e") == {"note": "mine"}


def test_what_a_killed_writer_left_on_other_storage_is_no_result(storage, tmp_path):
    (tmp_path / "half").write_text("half")
    (storage / "d" / "a.npy").put(tmp_path / "half")
    assert not is_result(storage / "d")
    with new_folder(storage / "d") as folder:
        fill(folder, "1")
        (folder / "a.npy").write_text("whole")
    assert is_result(storage / "d")
    assert names(storage) == {"d/manifest.json": "1", "d/a.npy": "whole"}
    assert is_result(tmp_path)
    assert not is_result(tmp_path / "nothing")
