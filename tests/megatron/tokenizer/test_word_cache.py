import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from megatron.tokenizer import Tokenizer, train_bpe, word_cache
from megatron.tokenizer.word_cache import WordCache, cuts_as_gpt2

TEXTS = ["They're it's 'tis don't 12 1st, a  b   c\n\n\td\xa0e naïve ☃ x1 ...(!) ''s"] * 3
# What the pattern tells apart, and what Python and the library might see differently.
TRICKY = st.text(
    st.sampled_from(
        "abstvel'' \n\t\r\x0b\x1c\x1f\x85\xa0\u180e\u200b\u3000\u0301éß中٣²Ⅷ!-_~\x00\x7f09\ufeff"
    )
)


@pytest.fixture(scope="module")
def trained():
    return train_bpe(TEXTS, 300)


@pytest.fixture(scope="module")
def backend(trained):
    return trained._backend


def lists(rows):
    return [row.tolist() for row in rows]


def by_the_library(backend, texts):
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


@settings(max_examples=500, deadline=None)
@given(texts=st.lists(TRICKY | st.text(), max_size=4))
def test_ids_are_those_of_the_library(backend, texts):
    assert lists(WordCache(backend).encode_batch(texts)) == by_the_library(backend, texts)


def check_characters(backend, numbers):
    cache = WordCache(backend)
    for start in range(0, len(numbers), 200):
        letters = [chr(n) for n in numbers[start : start + 200] if not 0xD800 <= n < 0xE000]
        texts = ["".join(f"a{c}1{c}{c}!{c}'s {c} {c}  {c}\n{c}\n" for c in letters)]
        assert lists(cache.encode_batch(texts)) == by_the_library(backend, texts)


def test_letters_and_spaces_of_unicode_in_all_places(backend):
    for numbers in (range(0x400), range(0x1680, 0x1690), range(0x2000, 0x2100)):
        check_characters(backend, numbers)


@pytest.mark.full
def test_two_planes_of_unicode_in_all_places(backend):
    check_characters(backend, range(0x20000))


def test_memory_is_bounded(backend, monkeypatch):
    monkeypatch.setattr(word_cache, "MAX_WORDS", 50)
    cache = WordCache(backend)
    for start in range(0, 400, 10):
        texts = [f"w{number} {'y' * 60}" for number in range(start, start + 10)]
        assert lists(cache.encode_batch(texts)) == by_the_library(backend, texts)
        assert len(cache) <= 50
        assert max(map(len, cache), default=0) <= 48


def test_a_tokenizer_that_looks_across_words_is_left_to_the_library(trained):
    def changed(**parts):
        backend = tokenizers.Tokenizer.from_str(trained._backend.to_str())
        for name, part in parts.items():
            setattr(backend, name, part)
        return backend

    assert cuts_as_gpt2(changed())
    assert not cuts_as_gpt2(changed(normalizer=normalizers.Lowercase()))
    assert not cuts_as_gpt2(changed(pre_tokenizer=pre_tokenizers.Whitespace()))
    assert not cuts_as_gpt2(changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)))
    assert not cuts_as_gpt2(changed(model=models.BPE(dropout=0.1)))
    assert not cuts_as_gpt2(tokenizers.Tokenizer(models.WordPiece({"a": 0}, unk_token="a")))
    with_name = changed()
    with_name.add_tokens([AddedToken("New York", normalized=False)])
    assert not cuts_as_gpt2(with_name)
    batch = Tokenizer(with_name, "x").encode_batch(["in New York"])
    assert lists(batch) == by_the_library(with_name, ["in New York"])
