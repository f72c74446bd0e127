import sys

import numpy as np
import pytest

from data_efficiency.analysis.text_tokenizer import TextTokenizer
from tests.data_efficiency.small_corpus import word_tokenizer

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(["the", "fox"]))
    return tmp_path / "tokenizer.json"


def test_file_folder_and_objects_are_one_tokenizer(file):
    transformers = pytest.importorskip("transformers")
    whole = tokenizers.Tokenizer.from_file(str(file))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), unk_token="[UNK]")
    for source in (str(file), file.parent, whole, fast):
        tokenizer = TextTokenizer(source)
        assert [row.tolist() for row in tokenizer.encode(["fox the fox", "a"])] == [[2, 1, 2], [0]]
        assert tokenizer.decode(np.array([1, 2])) == "the fox"
        assert tokenizer.vocab_size == 3
    assert TextTokenizer(file).fingerprint == TextTokenizer(whole).fingerprint


def test_truncation_is_left_to_the_trainer_and_the_caller_s_object_alone(file):
    whole = tokenizers.Tokenizer.from_file(str(file))
    whole.enable_truncation(2)
    assert TextTokenizer(whole).encode(["fox " * 5])[0].size == 5
    assert whole.truncation["max_length"] == 2


def test_what_is_no_tokenizer(file, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such file; a tokenizer is a tokenizer.json"):
        TextTokenizer(tmp_path / "none")
    file.write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer.json"):
        TextTokenizer(file)
    with pytest.raises(ValueError, match="a dict is no tokenizer that can be read here"):
        TextTokenizer({})
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'data-efficiency\[text\]'"):
        TextTokenizer(file)
