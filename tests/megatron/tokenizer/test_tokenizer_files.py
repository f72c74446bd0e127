import argparse

import pytest

from megatron.tokenizer import (
    add_tokenizer_flags,
    build_tokenizer,
    named_tokenizer,
    train_bpe,
    train_wordpiece,
)

TEXTS = ["the lowest of the low", "the newest and the widest"] * 5


@pytest.mark.parametrize(
    "arguments", [{}, {"vocab_file": "a"}, {"tokenizer_file": "a", "merge_file": "b"}]
)
def test_choice_of_files(arguments):
    with pytest.raises(ValueError, match="either --tokenizer-file, or --vocab-file and"):
        build_tokenizer(**arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", r"not a tokenizer\.json"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}', "is empty"),
        # The vocabulary is written out id by id.
        (
            b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 2147483648}, "merges": []}}',
            "has id 2147483648: must be below",
        ),
    ],
)
def test_damaged_tokenizer_file(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")


def test_each_kind_of_file_gives_its_tokenizer(tmp_path):
    train_bpe(TEXTS, 270).save(tmp_path / "bpe.json")
    wordpiece = train_wordpiece(TEXTS, 80)
    wordpiece.save(tmp_path / "wordpiece.json")
    assert build_tokenizer(tokenizer_file=tmp_path / "bpe.json").eod == 0
    of_json = build_tokenizer(tokenizer_file=tmp_path / "wordpiece.json")
    words = [wordpiece.decode([number]) for number in range(wordpiece.vocab_size)]
    (tmp_path / "vocab.txt").write_text("".join(word + "\n" for word in words))
    of_text = build_tokenizer(vocab_file=tmp_path / "vocab.txt")
    assert of_text.fingerprint == of_json.fingerprint == wordpiece.fingerprint
    assert of_text.encode(TEXTS[0]) == of_json.encode(TEXTS[0]) == wordpiece.encode(TEXTS[0])


def parse(*words):
    parser = argparse.ArgumentParser()
    add_tokenizer_flags(parser, otherwise="else the model's")
    assert "a tokenizer.json; else the model's" in parser.format_help()
    return parser.parse_args(words)


def test_no_tokenizer_is_named():
    assert named_tokenizer(parse()) is None


def test_file_of_the_flags(tmp_path):
    trained = train_bpe(["one two three"], 260)
    trained.save(tmp_path / "tokenizer.json")
    found = named_tokenizer(parse("--tokenizer-file", str(tmp_path / "tokenizer.json")))
    assert found.fingerprint == trained.fingerprint


def test_merges_alone_are_refused():
    with pytest.raises(ValueError, match="--vocab-file and --merge-file together"):
        named_tokenizer(parse("--merge-file", "merges.txt"))
