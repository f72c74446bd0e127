import pytest

from megatron.tokenizer.text_file import read_text


def test_errors_name_the_file(tmp_path):
    (tmp_path / "a.txt").write_text("naïve\n", encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == "naïve\n"
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"b\.txt: not a tokenizer file \(not UTF-8"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(FileNotFoundError, match="gone: no such tokenizer file"):
        read_text(tmp_path / "gone")
    with pytest.raises(OSError, match="cannot be read"):
        read_text(tmp_path)
