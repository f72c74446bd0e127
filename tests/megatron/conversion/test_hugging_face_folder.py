import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from megatron.conversion.gpt import gpt_rules, gpt_to_hugging_face
from megatron.conversion.hugging_face_folder import (
    read_config,
    read_model,
    weights_of,
    write_model,
    write_tokenizer,
)
from megatron.conversion.weights import to_theirs
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer

CONFIG = replace(GPT2, make_vocab_size_divisible_by=1)


@pytest.fixture
def weights():
    return to_theirs(make_gpt(CONFIG).state_dict(), gpt_rules(CONFIG))


def test_what_is_written_is_read(tmp_path, weights):
    weights = {name: value.bfloat16() for name, value in weights.items()}
    write_model(tmp_path, gpt_to_hugging_face(CONFIG), weights)
    fields = read_config(tmp_path)
    assert (fields["model_type"], fields["vocab_size"]) == ("gpt2", 300)
    found = weights_of(read_model(tmp_path))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert {value.dtype for value in found.values()} == {torch.bfloat16}


def test_missing_weight_is_an_error(tmp_path, weights):
    del weights["transformer.wpe.weight"]
    with pytest.raises(ValueError, match=r"no weights for 1 tensors .* transformer.wpe.weight"):
        write_model(tmp_path, gpt_to_hugging_face(CONFIG), weights)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        # Layers were drawn, or left out, and conversion called the logits equal.
        (
            "n_layer",
            5,
            "lacks [0-9]+ tensors, such as transformer.h.2.*config.json is of another model",
        ),
        ("n_layer", 1, "has no place in its model for [0-9]+ tensors, such as transformer.h.1"),
        ("tie_word_embeddings", False, "lacks 1 tensors, such as lm_head.weight"),
        ("vocab_size", 301, "is damaged or of another form .RuntimeError"),
        ("n_layer", "2", "is damaged or of another form"),
        ("eos_token_id", "0", "is damaged or of another form"),
        ("quantization_config", {"quant_method": "gptq"}, "is damaged or of another form"),
    ],
)
def test_a_configuration_of_other_weights(tmp_path, weights, field, value, message):
    write_model(tmp_path, gpt_to_hugging_face(CONFIG), weights)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=message):
        read_model(tmp_path)


def test_folder_without_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        read_config(tmp_path)


def test_tokenizer_gives_the_same_ids(tmp_path):
    tokenizer = make_tokenizer()
    write_tokenizer(tmp_path, tokenizer, 48)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "the cat <|mat\n  sat"
    assert loaded(text)["input_ids"] == tokenizer.encode(text)
    assert loaded.eos_token_id == tokenizer.eod
    assert loaded.model_max_length == 48
