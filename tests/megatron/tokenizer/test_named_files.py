import argparse

import pytest

from megatron.tokenizer import add_tokenizer_flags, named_tokenizer, train_bpe


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
