import json

import pytest
from tokenizers import pre_tokenizers

from megatron.tokenizer import END_OF_DOCUMENT, build_tokenizer, train_bpe

TEXTS = ["the lowest of the low", "the newest and the widest", "naïve ☃ snow"] * 5


@pytest.fixture
def gpt2_files(tmp_path):
    """GPT-2's two files with three merges: "he", "the", "Ġthe"."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "the", "Ġthe", END_OF_DOCUMENT]
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\nh e\nt he\nĠ the\n", encoding="utf-8")
    return vocab, merges


def test_training_is_deterministic_and_keeps_to_the_size():
    trained = train_bpe(TEXTS, 280)
    again = train_bpe(iter(TEXTS), 280)
    assert again.fingerprint == trained.fingerprint
    assert trained.vocab_size == 280
    assert train_bpe(["a different text"] * 9, 270).fingerprint != trained.fingerprint


def test_training_refuses_a_vocabulary_without_room_for_bytes():
    with pytest.raises(ValueError, match="--vocab-size is 256: must be at least 257"):
        train_bpe(TEXTS, 256)


def test_gpt2_files_apply_merges_in_order(gpt2_files):
    vocab_file, merge_file = gpt2_files
    tokenizer = build_tokenizer(vocab_file=vocab_file, merge_file=merge_file)
    vocab = json.loads(vocab_file.read_text())
    expected = [vocab[token] for token in ("the", "Ġ", "he", "Ġthe", "m")]
    assert tokenizer.encode("the he them") == expected
    assert (tokenizer.vocab_size, tokenizer.eod) == (260, 259)


def test_both_forms_of_one_tokenizer_have_one_fingerprint(tmp_path, gpt2_files):
    pair = build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])
    pair.save(tmp_path / "tokenizer.json")
    single = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    assert single.fingerprint == pair.fingerprint
    gpt2_files[1].write_text("t he\nh e\nĠ the\n", encoding="utf-8")
    reordered = build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])
    assert reordered.fingerprint != pair.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "vocab.json is not valid JSON"),
        ("[1]", "not a vocabulary"),
        ('{"a": "b"}', "not a vocabulary"),
        ('{"a": 0, "b": 0}', "ids must be distinct"),
        ('{"a": 0}', "255 of the 256 byte symbols are missing"),
    ],
)
def test_damaged_vocabulary(gpt2_files, content, message):
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
def test_merges_that_do_not_fit(gpt2_files, content, message):
    gpt2_files[1].write_text(content)
    with pytest.raises(ValueError, match=message):
        build_tokenizer(vocab_file=gpt2_files[0], merge_file=gpt2_files[1])
