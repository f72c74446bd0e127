import pytest

from data_efficiency import ConfigError
from megatron.recipes.toml_file import read_toml


def test_remarks_are_read_over_several_lines(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        "# Title\n# Cost: 3 steps,\n#   4 tokens\n# Result: none\n\n# not leading\nx = 1\n"
    )
    file = read_toml(path)
    assert file.comment[0] == "Title"
    assert file.remark("Cost") == "3 steps, 4 tokens"
    assert file.remark("Result") == "none"
    assert file.remark("Source") is None
    assert file.content == {"x": 1}


def test_invalid_toml_names_file_and_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("x = 1\ny = \n")
    with pytest.raises(ConfigError, match=r"a\.toml is not valid TOML: .*line 2"):
        read_toml(path)


def test_a_table_that_is_none(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("flags = 3\n")
    with pytest.raises(ConfigError, match="must be a table"):
        read_toml(path).check_keys(("lr",), "flags")
