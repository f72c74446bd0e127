import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from megatron.tokenizer import (
    END_OF_DOCUMENT,
    build_tokenizer,
    train_bpe,
    train_wordpiece,
)
from megatron.tokenizer.tokenizer import read_text

WITH_SPACE = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
TEXTS = ["the lowest of the low", "the newest and the widest", "naïve ☃ snow"] * 5


@pytest.fixture(scope="module")
def trained():
    return train_bpe(TEXTS, 280)


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_survives_encoding(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert all(0 <= token < trained.vocab_size for token in ids)
    assert trained.eod not in ids
    assert trained.bytes_of_tokens[ids].sum() == len(text.encode())
    batch = trained.encode_batch([text, "the"])
    assert [row.tolist() for row in batch] == [ids, trained.encode("the")]


def test_end_of_document_in_a_text_stays_text(trained):
    ids = trained.encode(f"a{END_OF_DOCUMENT}b")
    assert trained.eod not in ids
    assert trained.decode(ids) == f"a{END_OF_DOCUMENT}b"
    assert trained.decode([trained.eod]) == END_OF_DOCUMENT


def test_saved_file_gives_the_same_tokenizer(tmp_path, trained):
    trained.save(tmp_path / "new" / "tokenizer.json")
    loaded = build_tokenizer(tokenizer_file=tmp_path / "new" / "tokenizer.json")
    assert loaded.fingerprint == trained.fingerprint
    assert (loaded.vocab_size, loaded.eod) == (trained.vocab_size, trained.eod)
    assert loaded.encode(TEXTS[0]) == trained.encode(TEXTS[0])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_saving_where_nothing_can_be_written(tmp_path, trained):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"tokenizer\.json: cannot be written"):
        trained.save(tmp_path / "file" / "tokenizer.json")


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"normalizer": {"type": "NFC"}}, False),
        ({"decoder": {"type": "Fuse"}}, False),
        ({"decoder": None}, False),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [WITH_SPACE]}}, False),
    ],
)
def test_bytes_of_tokens_are_known_where_the_tokens_are_the_text(tmp_path, trained, changes, known):
    backend = tokenizers.Tokenizer.from_str(trained._backend.to_str())
    backend.add_tokens(["☃ as one"])
    backend.add_special_tokens(["<sep>"])
    content = json.loads(backend.to_str()) | changes
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    found = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    if not known:
        assert found.bytes_of_tokens is None
        return
    assert found.bytes_of_tokens[[found.eod, found.id_of("<sep>")]].tolist() == [0, 0]
    assert found.bytes_of_tokens[found.id_of("☃ as one")] == len("☃ as one".encode())


def test_truncation_and_padding_in_a_file_are_switched_off(tmp_path, trained):
    trained.save(tmp_path / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=2)
    backend.save(str(tmp_path / "short.json"))
    short = build_tokenizer(tokenizer_file=tmp_path / "short.json")
    assert short.encode(TEXTS[0]) == trained.encode(TEXTS[0])
    assert short.encode_batch(["a"])[0].tolist() == trained.encode("a")


def test_vocabulary_without_end_of_document(tmp_path):
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    assert tokenizer.encode("a") == [0]
    assert len(tokenizer.fingerprint) == 64
    with pytest.raises(ValueError, match=r"tokenizer\.json: the vocabulary has no '<\|endoftext"):
        _ = tokenizer.eod


def test_control_tokens_of_bert():
    tokenizer = train_wordpiece(TEXTS, 100)
    ids = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.control_tokens == ids
    assert tokenizer.decode([4]) == "[MASK]"


def test_missing_control_tokens_are_named(trained):
    with pytest.raises(ValueError, match=r"no \[CLS\] and no \[SEP\] and no \[PAD\] and no \[MASK"):
        _ = trained.control_tokens


def test_tokens_that_continue_a_word(trained):
    tokenizer = train_wordpiece(TEXTS, 100)
    flags = tokenizer.continuations
    assert flags.shape == (tokenizer.vocab_size,)
    assert flags.dtype == np.bool_
    ids = tokenizer.encode("lowland widest")
    words = [[ids[0]]]
    for token in ids[1:]:
        if flags[token]:
            words[-1].append(token)
        else:
            words.append([token])
    assert [tokenizer.decode(word) for word in words] == ["lowland", "widest"]
    assert len(ids) > 2
    with pytest.raises(ValueError, match="not WordPiece"):
        _ = trained.continuations


def test_errors_of_reading_name_the_file(tmp_path):
    (tmp_path / "a.txt").write_text("naïve\n", encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == "naïve\n"
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"b\.txt: not a tokenizer file \(not UTF-8"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(FileNotFoundError, match="gone: no such tokenizer file"):
        read_text(tmp_path / "gone")
    with pytest.raises(OSError, match="cannot be read"):
        read_text(tmp_path)
