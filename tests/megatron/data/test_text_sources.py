import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.data import text_sources
from megatron.data.text_sources import Block, find_sources, read_blocks, texts_of


def all_texts(*inputs: Path) -> list[str]:
    sources, _ = find_sources(inputs)
    return [text for block in read_blocks(sources) for (text,) in texts_of(block, ["text"])]


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def block_of(content: bytes) -> Block:
    return Block(Path("x.jsonl"), False, 7, content, 0)


def test_all_forms_in_a_folder_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "1.jsonl.gz").write_bytes(gzip.compress(lines("two", "three")))
    (tmp_path / "a.JSONL").write_bytes(lines("one"))
    (tmp_path / "c.txt.zst").write_bytes(zstandard.compress("vier\nfünf".encode()))
    (tmp_path / "d.md").write_text("five")
    (tmp_path / "picture.png").touch()
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    assert all_texts(tmp_path) == ["one", "two", "three", "vier\nfünf", "five"]
    sources, skipped = find_sources([tmp_path])
    assert [path.name for path in skipped] == ["manifest.json", "picture.png"]
    assert [source.is_text for source in sources] == [False, False, True, True]
    *_, last = read_blocks(sources)
    assert last.num_bytes_done == sum(source.num_bytes for source in sources)


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(max_size=30), max_size=20),
    block_bytes=st.integers(1, 200),
    read_bytes=st.integers(1, 50),
    compression=st.sampled_from(["", ".gz", ".zst"]),
    ends_with_newline=st.booleans(),
)
def test_no_cut_loses_a_document_or_a_line_number(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    block_bytes: int,
    read_bytes: int,
    compression: str,
    ends_with_newline: bool,
) -> None:
    content = lines(*texts)
    if not ends_with_newline:
        content = content.removesuffix(b"\n")
    half = len(content) // 2
    parts = [content[:half], content[half:]]
    if compression == ".gz":
        parts = [gzip.compress(part) for part in parts] + [b"\0" * 3]
    elif compression == ".zst":
        parts = [zstandard.compress(part) for part in parts]
    path = tmp_path_factory.mktemp("source") / f"a.jsonl{compression}"
    path.write_bytes(b"".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_sources, "BLOCK_BYTES", block_bytes)
        patch.setattr(text_sources, "_READ_BYTES", read_bytes)
        blocks = list(read_blocks(find_sources([path])[0]))
    assert [text for block in blocks for (text,) in texts_of(block, ["text"])] == texts
    line = 1
    for block in blocks:
        assert block.first_line == line
        line += block.content.count(b"\n") + 1


def test_several_keys_blank_lines_and_a_byte_order_mark() -> None:
    content = "\ufeff".encode() + b'{"a": "1", "b": "x"}\r\n\n  \n{"b": "y", "c": 0, "a": "2"}'
    assert texts_of(block_of(content), ["b", "a"]) == [("x", "1"), ("y", "2")]


def test_json_file_given_by_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines("one"))
    assert all_texts(tmp_path / "a.json") == ["one"]


def test_unpaired_surrogate_becomes_the_replacement_character() -> None:
    content = b'{"text": "a\\uD800b \\ud83d\\ude00"}'
    assert texts_of(block_of(content), ["text"]) == [("a\ufffdb \U0001f600",)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', r"x\.jsonl:8: not valid JSON \(.*, column 13\)"),
        (b"[1]", r"x\.jsonl:8: a JSON object was expected, not list"),
        (b'{"title": "a"}', r"x\.jsonl:8: no key 'text'; the line has \['title'\]"),
        (b'{"text": null}', r"x\.jsonl:8: the value of 'text' must be a string, not NoneType"),
        (b'{"text": "\xff"}', r"x\.jsonl:8: not UTF-8 \(byte 10\)"),
    ],
)
def test_damaged_line_is_named(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        texts_of(block_of(lines("fine") + line), ["text"])


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_compressed_file(tmp_path: Path, ending: str) -> None:
    compress = gzip.compress if ending == ".gz" else zstandard.compress
    content = compress(lines(*map(str, range(999))))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=rf"a\.jsonl{ending}: the {ending} data are cut short"):
        all_texts(path)
    path.write_bytes(b"no such magic" + content)
    with pytest.raises(ValueError, match=f"damaged {ending} data"):
        all_texts(path)


def test_wrong_inputs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such input file or folder"):
        find_sources([tmp_path / "gone"])
    with pytest.raises(ValueError, match="no file with a known ending in it"):
        find_sources([tmp_path])
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=r"a\.parquet: unknown ending; known are \.jsonl"):
        find_sources([tmp_path / "a.parquet"])
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"a\.txt: given twice"):
        find_sources([tmp_path, tmp_path / "a.txt"])


def test_file_that_vanishes_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    sources, _ = find_sources([tmp_path])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(OSError, match=r"a\.txt: cannot be read \(No such file"):
        list(read_blocks(sources))
