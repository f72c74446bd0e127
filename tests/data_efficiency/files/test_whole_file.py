"""A file is there complete or not at all, whatever happens while it is written."""

import pytest

from data_efficiency.files import new_file, write_file


def test_content_replaces_what_was_there(tmp_path):
    file = tmp_path / "new folder" / "table.txt"
    write_file(file, "zwölf\n")
    assert file.read_text(encoding="utf-8") == "zwölf\n"
    write_file(file, b"\x00\x01", sync=False)
    assert file.read_bytes() == b"\x00\x01"
    assert [path.name for path in file.parent.iterdir()] == ["table.txt"]


def test_failure_leaves_the_older_file_alone(tmp_path):
    file = tmp_path / "picture.png"
    write_file(file, "old")

    def fail():
        with new_file(file) as partial:
            assert (partial.parent, partial.suffix) == (tmp_path, ".png")
            partial.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_is_named(tmp_path, small_disk):
    (tmp_path / "taken").touch()
    with pytest.raises(OSError, match=r"taken/file: cannot be written \(File exists\)"):
        write_file(tmp_path / "taken" / "file", "")
    with pytest.raises(OSError, match=r"large: cannot be written \(No space left on device\)"):
        write_file(small_disk / "large", bytes(10**7))
    assert list(small_disk.iterdir()) == []


def test_on_other_storage_a_file_appears_at_the_end(storage):
    write_file(storage / "a.txt", "1")

    def stop():
        with new_file(storage / "a.txt") as partial:
            partial.write_text("2")
            assert (storage / "a.txt").read_text() == "1"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert storage.names() == ["a.txt"]
    with new_file(storage / "a.txt") as partial:
        partial.write_text("2")
    assert (storage / "a.txt").read_text() == "2"
