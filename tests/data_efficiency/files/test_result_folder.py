"""Result folders appear whole or not at all."""

import pytest

from data_efficiency.files import result_folder
from data_efficiency.files.result_folder import new_folder


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
