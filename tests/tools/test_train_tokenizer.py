import json

import pytest

from megatron.tokenizer import build_tokenizer
from tools import train_tokenizer


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["the lowest of the low and the newest and the widest", "naïve ☃"] * 3
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return path


def arguments(source, output, *more):
    flags = ["--input", str(source), "--output", str(output), "--json-key", "body"]
    return [*flags, "--vocab-size", "270", *more]


def test_the_same_text_gives_the_same_file(tmp_path, source, capsys):
    for name in ("1.json", "2.json"):
        assert train_tokenizer.main(arguments(source, tmp_path / name)) == 0
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    tokenizer = build_tokenizer(tokenizer_file=tmp_path / "1.json")
    assert (tokenizer.vocab_size, tokenizer.eod) == (270, 0)
    assert len(tokenizer.encode("the low")) < 6
    assert "1.json: 270 entries" in capsys.readouterr().out


def test_wordpiece(tmp_path, source, capsys):
    flags = ["--type", "wordpiece", "--vocab-size", "80"]
    for name in ("1.json", "2.json"):
        assert train_tokenizer.main(arguments(source, tmp_path / name, *flags)) == 0
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    tokenizer = build_tokenizer(tokenizer_file=tmp_path / "1.json")
    assert tokenizer.control_tokens == {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.decode(tokenizer.encode("The low")) == "the low"
    cased = tmp_path / "cased.json"
    assert train_tokenizer.main(arguments(source, cased, *flags, "--cased")) == 0
    assert build_tokenizer(tokenizer_file=cased).fingerprint != tokenizer.fingerprint
    assert train_tokenizer.main(arguments(source, tmp_path / "3.json", "--cased")) == 1
    assert "--cased belongs to --type wordpiece" in capsys.readouterr().err


def test_existing_file_is_replaced_only_when_asked(tmp_path, source, capsys):
    output = tmp_path / "t.json"
    output.write_text("old")
    assert train_tokenizer.main(arguments(source, output)) == 1
    assert "t.json: exists; give --overwrite" in capsys.readouterr().err
    assert output.read_text() == "old"
    assert train_tokenizer.main(arguments(source, output, "--overwrite")) == 0
    assert output.read_text() != "old"


def test_little_text_is_said(tmp_path, source, capsys):
    assert train_tokenizer.main(arguments(source, tmp_path / "t.json", "--vocab-size", "5000")) == 0
    assert "no more merges to learn; 5,000 were wanted" in capsys.readouterr().out


def test_errors_are_one_line_and_leave_nothing(tmp_path, source, refused):
    for more, message in (
        (["--json-key", "text"], "a.jsonl:1: no key 'text'"),
        (["--vocab-size", "9"], "--vocab-size is 9: must be at least 257"),
    ):
        assert message in refused(
            train_tokenizer.main, arguments(source, tmp_path / "t.json", *more)
        )
    assert not (tmp_path / "t.json").exists()
