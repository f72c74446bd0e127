import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.corpus import text_sources
from megatron.corpus.text_sources import Block, find_sources, read_blocks, texts_of


def all_texts(*inputs):
    sources, _ = find_sources(inputs)
    return [text for block in read_blocks(sources) for (text,) in texts_of(block, ["text"])]


def lines(*texts):
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def block_of(content):
    return Block(Path("x.jsonl"), False, 7, content, 0)


def test_all_forms_in_a_folder_are_found_in_a_fixed_order(tmp_path):
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
    tmp_path_factory, texts, block_bytes, read_bytes, compression, ends_with_newline
):
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
        patch.setattr(text_sources, "_COMPRESSED_READ_BYTES", read_bytes)
        blocks = list(read_blocks(find_sources([path])[0]))
    assert [text for block in blocks for (text,) in texts_of(block, ["text"])] == texts
    line = 1
    for block in blocks:
        assert block.first_line == line
        line += block.content.count(b"\n") + 1


def test_several_keys_blank_lines_and_a_byte_order_mark():
    content = "\ufeff".encode() + b'{"a": "1", "b": "x"}\r\n\n  \n{"b": "y", "c": 0, "a": "2"}'
    assert texts_of(block_of(content), ["b", "a"]) == [("x", "1"), ("y", "2")]


def test_json_file_given_by_name_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(lines("one"))
    assert all_texts(tmp_path / "a.json") == ["one"]


def test_unpaired_surrogate_becomes_the_replacement_character():
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
        (b'{"text": ' + b"1" * 5000 + b"}", r"x\.jsonl:8: the value of 'text' must be a string"),
        (b'{"a": ' + b"[" * 99999 + b"]" * 99999 + b"}", r"x\.jsonl:8: lists or .* more levels"),
    ],
)
def test_damaged_line_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        texts_of(block_of(lines("fine") + line), ["text"])


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_compressed_file(tmp_path, ending):
    compress = gzip.compress if ending == ".gz" else zstandard.compress
    content = compress(lines(*map(str, range(999))))
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=rf"a\.jsonl{ending}: the {ending} data are cut short"):
        all_texts(path)
    for cut in (0, 3, len(content) + 3):
        path.write_bytes((content + content)[:cut])
        with pytest.raises(ValueError, match=rf"a\.jsonl{ending}: the {ending} data are cut short"):
            all_texts(path)
    path.write_bytes(content + b"trailing bytes")
    with pytest.raises(ValueError, match=f"damaged {ending} data"):
        all_texts(path)
    path.write_bytes(b"no such magic" + content)
    with pytest.raises(ValueError, match=f"damaged {ending} data"):
        all_texts(path)


def test_numbers_of_any_length_beside_the_text():
    content = b'{"n": [' + b"7" * 5000 + b', -1e999], "text": "a"}'
    assert texts_of(block_of(content), ["text"]) == [("a",)]


SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"


def long_window(content):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=True)
    # Without a size in the header the window counts, as where `zstd --long=31` reads a pipe.
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(content) + compressor.flush()


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".zst", long_window(lines("one", "two"))),
        (".zst", SKIPPABLE_FRAME + zstandard.compress(lines("one", "two")) + SKIPPABLE_FRAME),
        (".zst", b"".join(zstandard.compress(part) for part in (lines("one"), b"", lines("two")))),
        (".gz", b"".join(gzip.compress(part) for part in (lines("one"), b"", lines("two")))),
    ],
    ids=["long window", "skippable frames", "zst members", "gz members"],
)
def test_all_that_the_compressors_write(tmp_path, ending, content):
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(content)
    assert all_texts(path) == ["one", "two"]


def test_wrong_inputs(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such input file or folder"):
        find_sources([tmp_path / "gone"])
    with pytest.raises(ValueError, match="no file with a known ending in it"):
        find_sources([tmp_path])
    for name in ("a.csv", "a.parquet.zst"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=rf"{name}: unknown ending; known are \.jsonl"):
            find_sources([tmp_path / name])
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"a\.txt: given twice"):
        find_sources([tmp_path, tmp_path / "a.txt"])


def test_repetitive_compressed_file_comes_in_small_blocks(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(lines("x" * 1000) * 200_000))
    assert path.stat().st_size < 50_000
    largest = max(len(block.content) for block in read_blocks(find_sources([path])[0]))
    assert largest < 25_000_000


def test_standard_input_and_pipes_are_read_once(tmp_path, monkeypatch):
    content = lines("one", "two")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    pipe = tmp_path / "b.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    (tmp_path / "c.jsonl").write_bytes(content)
    sources, _ = find_sources(["-", pipe, tmp_path / "c.jsonl"], with_standard_input=True)
    blocks = list(read_blocks(sources))
    writer.join()
    assert [block.num_bytes_done for block in blocks] == [len(content) * n for n in (1, 2, 3)]
    texts = [text for block in blocks for (text,) in texts_of(block, ["text"])]
    assert texts == ["one", "two"] * 3
    with pytest.raises(ValueError, match="-: standard input was given twice"):
        find_sources(["-", "-"], with_standard_input=True)
    with pytest.raises(FileNotFoundError, match="-: no such input"):
        find_sources(["-"])


def test_rows_of_a_table_become_blocks(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    titles = [f"t{number}" for number in range(300)]
    table = pyarrow.table({"title": titles, "n": range(300), "text": ["x" * 10] * 299 + [None]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=90)
    (tmp_path / "b.jsonl").write_bytes(lines("last"))
    monkeypatch.setattr(text_sources, "BLOCK_BYTES", 200)
    sources, _ = find_sources([tmp_path])
    blocks = list(read_blocks(sources, ["title"]))
    assert len(blocks) > 3
    done = [block.num_bytes_done for block in blocks]
    assert done == sorted(done)
    assert done[-1] == sum(source.num_bytes for source in sources)
    assert [text for block in blocks[:-1] for (text,) in texts_of(block, ["title"])] == titles
    *_, before, last = read_blocks(sources[:1], ["text", "title"])
    assert texts_of(before, ["text", "title"])[0] == ("x" * 10, titles[before.first_line])
    message = r"a\.parquet, row 299: the value of 'text' must be a string, not NoneType"
    with pytest.raises(ValueError, match=message):
        texts_of(last, ["text", "title"])
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'body'; it has \['n', 'text', 't"):
        list(read_blocks(sources, ["body"]))


def test_file_that_vanishes_before_it_is_read(tmp_path):
    (tmp_path / "a.txt").touch()
    sources, _ = find_sources([tmp_path])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(OSError, match=r"a\.txt: cannot be read \(No such file"):
        list(read_blocks(sources))
