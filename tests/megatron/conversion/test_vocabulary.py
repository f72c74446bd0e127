from dataclasses import replace

import pytest
import torch

from megatron.config import ModelConfig
from megatron.conversion.vocabulary import (
    PADDING_FILE,
    known_to,
    padded_to,
    padding_multiple,
    with_padding,
    without_padding,
    write_padding,
)
from megatron.model.bert_model import BertModel
from tests.megatron.finetuning.bert_task_data import CONFIG as BERT
from tests.megatron.small_models import GPT2, LLAMA, make_gpt, make_model, make_tokenizer


@pytest.mark.parametrize(("vocab_size", "rows"), [(50257, 50304), (50257, 50257), (5, 7), (7, 7)])
def test_padding_multiple_gives_the_rows(vocab_size, rows):
    multiple = padding_multiple(vocab_size, rows)
    config = ModelConfig(vocab_size=vocab_size, make_vocab_size_divisible_by=multiple)
    assert config.padded_vocab_size == rows
    padded = padded_to(ModelConfig(vocab_size=1), vocab_size, rows)
    assert (padded.vocab_size, padded.padded_vocab_size) == (vocab_size, rows)


@pytest.mark.parametrize(
    ("config", "num_cut"),
    [
        (GPT2, 1),
        (replace(LLAMA, untie_embeddings_and_output_weights=True), 2),
        (BERT, 2),
        (replace(GPT2, make_vocab_size_divisible_by=1), 0),
    ],
)
def test_what_was_cut_comes_back(tmp_path, config, num_cut):
    model = make_model(BertModel, config) if config is BERT else make_gpt(config)
    weights = model.state_dict()
    kept, padding = without_padding(config, weights)
    assert len(padding) == num_cut
    for name, rows in padding.items():
        assert (len(kept[name]), len(kept[name]) + len(rows)) == (
            config.vocab_size,
            config.padded_vocab_size,
        )
    write_padding(tmp_path, padding)
    assert (tmp_path / PADDING_FILE).is_file() == bool(num_cut)
    cut = replace(config, make_vocab_size_divisible_by=1)
    found, joined = with_padding(tmp_path, cut, kept)
    assert found.padded_vocab_size == config.padded_vocab_size
    assert joined.keys() == weights.keys()
    assert all(torch.equal(joined[name], weights[name]) for name in weights)


def test_rows_of_another_model_are_refused(tmp_path):
    write_padding(tmp_path, {"output_layer.weight": torch.zeros(3, 24)})
    kept, _ = without_padding(GPT2, make_gpt(GPT2).state_dict())
    with pytest.raises(ValueError, match="is of another model"):
        with_padding(tmp_path, GPT2, kept)


def test_what_a_tokenizer_does_not_know_is_padding():
    tokenizer = make_tokenizer()
    found = known_to(tokenizer, GPT2)
    assert (found.vocab_size, found.padded_vocab_size) == (tokenizer.vocab_size, 384)
    assert known_to(tokenizer, found) == found
    assert known_to(None, GPT2) == GPT2
