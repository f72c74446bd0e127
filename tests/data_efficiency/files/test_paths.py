"""No output over an input, whatever both are called."""

import os

import pytest

from data_efficiency.files import refuse_writing_over


@pytest.mark.parametrize(
    "output", ["a.json", "folder/../a.json", "hard.json", "soft.json", "soft/a.json"]
)
def test_an_output_that_is_an_input(tmp_path, output):
    (tmp_path / "a.json").touch()
    (tmp_path / "folder").mkdir()
    os.link(tmp_path / "a.json", tmp_path / "hard.json")
    (tmp_path / "soft.json").symlink_to("a.json")
    (tmp_path / "soft").symlink_to(".")
    with pytest.raises(ValueError, match="would be written over the input .*a.json: give another"):
        refuse_writing_over([tmp_path / output], [None, tmp_path / "a.json"])
    refuse_writing_over([tmp_path / "b.json"], [tmp_path / "a.json", tmp_path / "folder"])


def test_an_output_inside_an_input_folder(tmp_path):
    (tmp_path / "link").symlink_to(".")
    with pytest.raises(ValueError, match="would be written into the input folder .*, and read as"):
        refuse_writing_over([tmp_path / "link" / "b.json"], [tmp_path])


def test_neither_has_to_be_there(tmp_path):
    refuse_writing_over([tmp_path / "x" / "b"], [tmp_path / "y"])
    with pytest.raises(ValueError, match="over the input"):
        refuse_writing_over([tmp_path / "x" / "b"], [tmp_path / "x" / "." / "b"])
