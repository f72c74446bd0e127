"""One error that names the file, whatever is wrong with it."""

import pytest

from data_efficiency.files import read_json_object, reading


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, r"a\.json is not valid JSON \(maximum recursion depth"),
        (b'{"a": ' * 100_000, r"a\.json is not valid JSON \(maximum recursion depth"),
        (b"9" * 5000, r"a\.json is not valid JSON \(Exceeds the limit"),
        (b"\xff\xfe\xff", r"a\.json is not valid JSON \('utf-16-le' codec"),
        (b"", r"a\.json is not valid JSON \(Expecting value"),
        (
            b'{"a": {"seed": 1, "b": 2, "seed": 3}}',
            r"a\.json is not valid JSON \(the key 'seed' comes",
        ),
        (b"[1]", r"a\.json must hold a JSON object, not list"),
    ],
)
def test_what_is_no_json_object(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json_object(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (KeyError("x"), ValueError, "a.bin is damaged or of another form (KeyError: 'x')"),
        (
            ValueError("short"),
            ValueError,
            "a.bin is damaged or of another form (ValueError: short)",
        ),
        (ValueError("a.bin: line 3"), ValueError, "a.bin: line 3"),
        (FileNotFoundError("gone"), FileNotFoundError, "gone"),
        (ModuleNotFoundError("no x"), ModuleNotFoundError, "no x"),
    ],
)
def test_what_reading_raises(error, kind, text):
    with pytest.raises(kind) as raised, reading("a.bin"):
        raise error
    assert str(raised.value) == text
