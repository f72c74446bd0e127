import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from megatron.tokenizer import END_OF_DOCUMENT, Tokenizer, build_tokenizer, train_bpe

TEXTS = ["the lowest of the low", "the newest and the widest", "naïve ☃ snow"] * 5


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_bpe(TEXTS, 280)


@pytest.fixture
def gpt2_files(tmp_path: Path) -> tuple[Path, Path]:
    """GPT-2's two files with three merges: "he", "the", "Ġthe"."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "the", "Ġthe", END_OF_DOCUMENT]
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\nh e\nt he\nĠ the\n", encoding="utf-8")
    return vocab, merges


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_survives_encoding(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert all(0 <= token < trained.vocab_size for token in ids)
    assert trained.eod not in ids
    assert trained.encode_batch([text, "the"]) == [ids, trained.encode("the")]


def test_end_of_document_in_a_text_stays_text(trained: Tokenizer) -> None:
    ids = trained.encode(f"a{END_OF_DOCUMENT}b")
    assert trained.eod not in ids
    assert trained.decode(ids) == f"a{END_OF_DOCUMENT}b"
    assert trained.decode([trained.eod]) == END_OF_DOCUMENT


def test_training_is_deterministic_and_keeps_to_the_size(trained: Tokenizer) -> None:
    again = train_bpe(iter(TEXTS), 280)
    assert again.fingerprint == trained.fingerprint
    assert trained.vocab_size == 280
    assert train_bpe(["a different text"] * 9, 270).fingerprint != trained.fingerprint


def test_training_refuses_a_vocabulary_without_room_for_bytes() -> None:
    with pytest.raises(ValueError, match="--vocab-size is 256: must be at least 257"):
        train_bpe(TEXTS, 256)


def test_saved_file_gives_the_same_tokenizer(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save(tmp_path / "new" / "tokenizer.json")
    loaded = build_tokenizer(tokenizer_file=tmp_path / "new" / "tokenizer.json")
    assert loaded.fingerprint == trained.fingerprint
    assert (loaded.vocab_size, loaded.eod) == (trained.vocab_size, trained.eod)
    assert loaded.encode(TEXTS[0]) == trained.encode(TEXTS[0])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_saving_where_nothing_can_be_written(tmp_path: Path, trained: Tokenizer) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"tokenizer\.json: cannot be written"):
        trained.save(tmp_path / "file" / "tokenizer.json")


def test_gpt2_files_apply_merges_in_order(gpt2_files: tuple[Path, Path]) -> None:
    vocab_file, merge_file = gpt2_files
    tokenizer = build_tokenizer(vocab_file=vocab_file, merge_file=merge_file)
    vocab = json.loads(vocab_file.read_text())
    expected = [vocab[token] for token in ("the", "Ġ", "he", "Ġthe", "m")]
    assert tokenizer.encode("the he them") == expected
    assert (tokenizer.vocab_size, tokenizer.eod) == (260, 259)


def test_both_forms_of_one_tokenizer_have_one_fingerprint(
    tmp_path: Path, gpt2_files: tuple[Path, Path]
) -> None:
    pair = build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])
    pair.save(tmp_path / "tokenizer.json")
    single = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    assert single.fingerprint == pair.fingerprint
    gpt2_files[1].write_text("t he\nh e\nĠ the\n", encoding="utf-8")
    reordered = build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])
    assert reordered.fingerprint != pair.fingerprint


def test_truncation_and_padding_in_a_file_are_switched_off(
    tmp_path: Path, trained: Tokenizer
) -> None:
    trained.save(tmp_path / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=2)
    backend.save(str(tmp_path / "short.json"))
    short = build_tokenizer(tokenizer_file=tmp_path / "short.json")
    assert short.encode(TEXTS[0]) == trained.encode(TEXTS[0])
    assert short.encode_batch(["a"]) == [trained.encode("a")]


def test_vocabulary_without_end_of_document(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    assert tokenizer.encode("a") == [0]
    assert len(tokenizer.fingerprint) == 64
    with pytest.raises(ValueError, match=r"tokenizer\.json: the vocabulary has no '<\|endoftext"):
        _ = tokenizer.eod


@pytest.mark.parametrize(
    "arguments", [{}, {"vocab_file": "a"}, {"tokenizer_file": "a", "merge_file": "b"}]
)
def test_choice_of_files(arguments: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either --tokenizer-file, or --vocab-file and"):
        build_tokenizer(**arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", r"not a tokenizer\.json"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}', "is empty"),
    ],
)
def test_damaged_tokenizer_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")


def test_missing_tokenizer_files(tmp_path: Path, gpt2_files: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError, match="gone: no such tokenizer file"):
        build_tokenizer(tokenizer_file=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="gone: no such tokenizer file"):
        build_tokenizer(vocab_file=gpt2_files[0], merge_file=tmp_path / "gone")
    with pytest.raises(OSError, match="cannot be read"):
        build_tokenizer(tokenizer_file=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "vocab.json: not valid JSON"),
        ("[1]", "not a vocabulary"),
        ('{"a": "b"}', "not a vocabulary"),
        ('{"a": 0, "b": 0}', "ids must be distinct"),
        ('{"a": 0}', "255 of the 256 byte symbols are missing"),
    ],
)
def test_damaged_vocabulary(gpt2_files: tuple[Path, Path], content: str, message: str) -> None:
    gpt2_files[0].write_text(content)
    with pytest.raises(ValueError, match=message):
        build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("h e r\n", r"merges\.txt:1: a merge is two tokens and a space"),
        ("h e\nhe r\n", "merge 2 .he r. needs 'her', which is not in .*same tokenizer"),
    ],
)
def test_merges_that_do_not_fit(gpt2_files: tuple[Path, Path], content: str, message: str) -> None:
    gpt2_files[1].write_text(content)
    with pytest.raises(ValueError, match=message):
        build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])
