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
