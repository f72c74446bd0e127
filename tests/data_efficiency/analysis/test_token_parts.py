"""Parts of rows: there whole or not at all, of one origin, and put together in any order."""

import numpy as np
import pytest

from data_efficiency.analysis.token_parts import Stretch, TokenParts


@pytest.fixture(params=["here", "there"])
def parts(request, tmp_path, storage):
    """Of a folder on the disk, and on other storage."""
    folder = tmp_path / "t.parts" if request.param == "here" else storage / "t.parts"
    folder.mkdir(exist_ok=True)
    return TokenParts(folder, {"a": 1})


def write(parts, name, rows):
    with parts.new_part(name) as part:
        for segment, row in rows:
            part.add(np.array(row, np.int64), segment)


def rows_in(parts, *stretches):
    found = []
    for tokens, lengths in parts.blocks([Stretch(*stretch) for stretch in stretches]):
        assert tokens.dtype == np.dtype("<u4")
        found += [row.tolist() for row in np.split(tokens, np.cumsum(lengths)[:-1])]
    return found


def test_rows_come_back_in_the_order_that_is_asked_for(parts):
    write(parts, "0", [("b", [1, 2]), ("b", []), ("a", [3])])
    write(parts, "1", [("c", [4])])
    assert parts.names() == ["0", "1"]
    assert parts.marker("0")["segments"] == [["b", 2], ["a", 1]]
    assert (parts.marker("0")["num_rows"], parts.marker("1")["num_rows"]) == (3, 1)
    assert rows_in(parts, ("0", 2, 3), ("1", 0, 1), ("0", 0, 2)) == [[3], [4], [1, 2], []]
    assert rows_in(parts, ("0", 1, 1)) == []


def test_many_rows(parts):
    write(parts, "0", [("", [number, number]) for number in range(10_000)])
    assert rows_in(parts, ("0", 5, 9_999)) == [[number, number] for number in range(5, 9_999)]


def test_a_part_without_tokens(parts):
    write(parts, "0", [("", []), ("", [])])
    write(parts, "1", [])
    assert rows_in(parts, ("0", 0, 2)) == [[], []]
    assert parts.marker("1")["num_rows"] == 0
    assert rows_in(parts, ("1", 0, 0)) == []


def test_what_was_stopped_is_not_there(parts):
    write(parts, "0", [("", [1])])

    def stop():
        with parts.new_part("0") as part:
            part.add(np.array([2]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert parts.names() == []
    assert parts.marker("0") is None
    with pytest.raises(FileNotFoundError, match=r"0.json: there is no such part of these rows"):
        rows_in(parts, ("0", 0, 1))


def test_parts_of_other_rows_and_changed_ones(parts, tmp_path):
    write(parts, "0", [("", [1])])
    other = TokenParts(parts.path, {"a": 2})
    assert other.marker("0") is None
    assert other.names() == ["0"]
    write(parts, "0", [("", [2])])
    changed = parts.path / "0.tokens.bin"
    if hasattr(changed, "put"):
        (tmp_path / "file").write_bytes(b"abcd")
        changed.put(tmp_path / "file")
    else:
        changed.write_bytes(b"abcd")
    with pytest.raises(ValueError, match=r"0.tokens.bin was changed after it was written"):
        rows_in(parts, ("0", 0, 1))
    parts.remove_all()
    parts.remove_all()
    assert not parts.path.exists()
