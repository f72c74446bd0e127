import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.tokenizer import build_tokenizer, train_wordpiece
from megatron.tokenizer.wordpiece import CONTROL_TOKENS
from tests.processes import run_python

TEXTS = [
    f"The {word} of the {word}s, {number}: naïve Ünder {word}ing"
    for number, word in enumerate(["lowest", "widest", "newest", "fastest", "slowest", "brightest"])
] * 3
VOCABULARY = [*CONTROL_TOKENS, "the", "low", "##est", "un", "##der", ",", "[unused0]"]


@pytest.fixture(scope="module")
def trained():
    return train_wordpiece(TEXTS, 90)


def write_vocabulary(path, tokens, end="\n"):
    path.write_bytes("".join(token + end for token in tokens).encode())
    return path


def test_longest_pieces_are_taken_and_unknown_words_are_said_to_be(tmp_path):
    for end in ("\n", "\r\n"):
        path = write_vocabulary(tmp_path / "vocab.txt", VOCABULARY, end)
        tokenizer = build_tokenizer(vocab_file=path)
        expected = [VOCABULARY.index(token) for token in ("the", "low", "##est", ",", "[UNK]")]
        assert tokenizer.encode("The LOWest, 中") == expected
        assert tokenizer.decode(tokenizer.encode("Ünder the")) == "under the"
        assert tokenizer.control_tokens == {"pad": 0, "cls": 2, "sep": 3, "mask": 4}


def test_an_upper_case_entry_makes_a_vocabulary_cased(tmp_path):
    uncased = build_tokenizer(vocab_file=write_vocabulary(tmp_path / "u.txt", VOCABULARY))
    words = [*VOCABULARY, "The", "Ü"]
    cased = build_tokenizer(vocab_file=write_vocabulary(tmp_path / "c.txt", words))
    assert cased.encode("The the Ü") == [words.index(token) for token in ("The", "the", "Ü")]
    assert uncased.encode("The the") == [words.index("the")] * 2
    # One vocabulary with and without upper case are two tokenizers.
    uncased.save(tmp_path / "u.json")
    content = json.loads((tmp_path / "u.json").read_text())
    content["normalizer"]["lowercase"] = False
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = build_tokenizer(tokenizer_file=tmp_path / "other.json")
    assert other.fingerprint != uncased.fingerprint
    assert build_tokenizer(tokenizer_file=tmp_path / "u.json").fingerprint == uncased.fingerprint


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*CONTROL_TOKENS, "the", " ", "[", "low", "mask"]), max_size=8))
def test_text_never_becomes_a_control_token(trained, parts):
    control = {trained.id_of(token) for token in CONTROL_TOKENS} - {trained.id_of("[UNK]")}
    assert control.isdisjoint(trained.encode("".join(parts)))


def test_hugging_face_reads_the_saved_file(tmp_path, trained):
    trained.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = trained.control_tokens
    ours = trained.encode("the lowest")
    assert theirs.encode("the lowest").ids == [ids["cls"], *ours, ids["sep"]]
    assert theirs.encode("the [MASK]").ids[-2] == ids["mask"]


def test_training_is_the_same_in_every_process(trained):
    assert trained.vocab_size == 90
    program = (
        "from megatron.tokenizer import train_wordpiece as train\n"
        f"print(train({TEXTS!r}, 90).fingerprint)"
    )
    for _ in range(3):
        assert run_python("-c", program) == trained.fingerprint + "\n"


def test_training_learns_whole_words_and_keeps_case_where_asked(trained):
    assert len(trained.encode("the of")) == 2
    assert trained.decode(trained.encode("The NAÏVE under")) == "the naive under"
    cased = train_wordpiece(TEXTS, 90, is_cased=True)
    assert cased.decode(cased.encode("The naïve Ünder")) == "The naïve Ünder"
    assert cased.fingerprint != trained.fingerprint
    other = train_wordpiece([*TEXTS, "another text of texts"] * 2, 90)
    assert other.fingerprint != trained.fingerprint


def test_rare_characters_leave_room_for_words():
    rare = "".join(chr(0x0250 + number) for number in range(90))
    tokenizer = train_wordpiece([*TEXTS * 10, rare], 80)
    known = [character for character in rare if tokenizer.has(character)]
    assert len(known) < 20
    assert tokenizer.has("the")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="--vocab-size is 63: must be at least 64"):
        train_wordpiece(TEXTS, 63)
    with pytest.raises(TypeError, match="it is read twice"):
        train_wordpiece(iter(TEXTS), 100)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([*VOCABULARY, "the"], r"vocab\.txt:6: 'the' stands on line 13 as well"),
        ([*VOCABULARY, "", "a"], r"vocab\.txt:13: not a token: ''; one stands on each line"),
        (["the", "low"], r"vocab\.txt: not a WordPiece vocabulary, it has no '\[UNK\]'"),
        ([], r"not a token"),
    ],
)
def test_damaged_vocabulary(tmp_path, tokens, message):
    path = write_vocabulary(tmp_path / "vocab.txt", tokens)
    if not tokens:
        path.write_text("\n\n")
    with pytest.raises(ValueError, match=message):
        build_tokenizer(vocab_file=path)


def test_a_vocabulary_without_control_tokens_is_named(tmp_path):
    path = write_vocabulary(tmp_path / "vocab.txt", ["[UNK]", "[CLS]", "[PAD]", "a"])
    with pytest.raises(
        ValueError, match=r"vocab\.txt: the vocabulary has no \[SEP\] and no \[MASK"
    ):
        _ = build_tokenizer(vocab_file=path).control_tokens
