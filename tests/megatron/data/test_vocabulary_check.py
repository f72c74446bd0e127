from types import SimpleNamespace

import pytest

from megatron.config import DataConfig
from megatron.data.vocabulary_check import check_vocabulary
from megatron.tokenizer import named_tokenizer, train_bpe


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(["one two three"], 260).save(path)
    return str(path)


def dataset_of(tokenizer, vocab_size=260):
    return SimpleNamespace(vocab_size=vocab_size, identity={"tokenizer": tokenizer})


def test_what_belongs_together_passes(tokenizer_file):
    data = DataConfig(data_path=("corpus",), tokenizer_file=tokenizer_file)
    tokenizer = named_tokenizer(data)
    check_vocabulary(dataset_of(tokenizer.fingerprint), data, 260, tokenizer)
    check_vocabulary(dataset_of(None, vocab_size=None), data, 1, tokenizer)
    check_vocabulary(dataset_of("another"), data, 260, None)


def test_another_tokenizer_is_refused(tokenizer_file):
    data = DataConfig(data_path=("0.5", "a", "0.5", "b"), tokenizer_file=tokenizer_file)
    message = (
        f"--tokenizer-file is '{tokenizer_file}': the corpus 0.5 a 0.5 b was made with another"
    )
    with pytest.raises(ValueError, match=message):
        check_vocabulary(dataset_of("another"), data, 260, named_tokenizer(data))


def test_a_model_with_too_few_entries_is_refused():
    data = DataConfig(data_path=("corpus",))
    message = "--vocab-size is 259: the corpus corpus was made with a vocabulary of 260"
    with pytest.raises(ValueError, match=message):
        check_vocabulary(dataset_of(None), data, 259, None)
