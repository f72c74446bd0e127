"""Whole conversions through files: bits, logits, tokenizers, and what is left behind after an error."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron.conversion import model as conversion
from megatron.conversion.model import Model, read_any, save_as_hugging_face, save_as_ours
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from tests.megatron.conversion.test_bert import BERT
from tests.megatron.conversion.test_deepspeed import write_checkpoint
from tests.megatron.small_models import GPT2, LLAMA, make_gpt, make_model, make_tokenizer, save_run

UNTIED = {"untie_embeddings_and_output_weights": True}
FAMILIES = {
    "gpt2": GPT2,
    "gpt2_untied": replace(GPT2, **UNTIED),
    "llama": LLAMA,
    "llama_untied": replace(LLAMA, **UNTIED),
    "bert": BERT,
    "bert_tanh": replace(BERT, gelu="tanh", num_token_types=1),
    "megatron-bert": replace(BERT, normalization_position="before"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_to_hugging_face_to_ours_gives_the_same_bits(tmp_path, family):
    config, is_bert = FAMILIES[family], "bert" in family
    tokenizer = None if is_bert else make_tokenizer()
    model = make_model(BertModel if is_bert else GPTModel, config)
    run = save_run(tmp_path / "run", model)
    there = save_as_hugging_face(read_any(run), tmp_path / "there", tokenizer)
    assert there.largest_difference < 1e-4
    assert there.num_parameters == sum(weight.numel() for weight in model.parameters())
    read = read_any(tmp_path / "there")
    assert read.config.vocab_size == (300 if is_bert else tokenizer.vocab_size)
    assert read.config.padded_vocab_size == config.padded_vocab_size
    back = save_as_ours(read, tmp_path / "back", tokenizer, tmp_path / "there")
    assert back.largest_difference < 1e-4
    weights, expected = read_any(tmp_path / "back").weights, model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("untied", [False, True])
def test_folder_works_as_users_load_it(tmp_path, untied):
    tokenizer = make_tokenizer()
    config = replace(
        LLAMA, vocab_size=tokenizer.vocab_size, untie_embeddings_and_output_weights=untied
    )
    model = make_gpt(config)
    run = save_run(tmp_path / "run", model)
    save_as_hugging_face(read_any(run), tmp_path / "there", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    ids = AutoTokenizer.from_pretrained(tmp_path / "there")("the cat", return_tensors="pt")
    found, expected = theirs(**ids).logits, model(ids["input_ids"])
    # No id can be chosen that the tokenizer lacks.
    assert found.shape[-1] == tokenizer.vocab_size < expected.shape[-1]
    assert torch.allclose(found, expected[..., : tokenizer.vocab_size], atol=1e-4)


def test_megatron_deepspeed_to_hugging_face(tmp_path):
    model = make_gpt(GPT2)
    run = write_checkpoint(tmp_path / "run", model)
    save_as_hugging_face(read_any(run, vocab_size=300), tmp_path / "there", None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    ids = torch.arange(20)[None]
    assert torch.allclose(theirs(ids).logits, model(ids)[..., :300], atol=1e-4)


def test_rows_beyond_the_tokenizer_are_padding(tmp_path):
    model, tokenizer = make_gpt(GPT2), make_tokenizer()
    save_as_hugging_face(Model(GPT2, model.state_dict()), tmp_path / "there", tokenizer)
    # As others write it: the padding is part of the model.
    config = replace(GPT2, make_vocab_size_divisible_by=1)
    save_as_hugging_face(Model(config, make_gpt(config).state_dict()), tmp_path / "padded", None)
    read = read_any(tmp_path / "padded")
    save_as_ours(read, tmp_path / "ours", tokenizer, tmp_path / "padded")
    ours = read_any(tmp_path / "ours").config
    assert (ours.vocab_size, ours.padded_vocab_size) == (tokenizer.vocab_size, 300)
    save_as_hugging_face(read_any(tmp_path / "ours"), tmp_path / "cut", tokenizer)
    for name in ("there", "cut"):
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert len(theirs.lm_head.weight) == tokenizer.vocab_size
    again = read_any(tmp_path / "cut").weights
    assert all(torch.equal(again[name], value) for name, value in read.weights.items())


def test_a_model_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    read = read_any(save_run(tmp_path / "run", make_gpt(GPT2)))
    norm = "language_model.final_layernorm.weight"
    # What is written comes from other weights than what is compared with.
    changed = {norm: read.weights[norm] + 0.01}
    rules = conversion.to_theirs
    monkeypatch.setattr(
        conversion, "to_theirs", lambda weights, names: rules(weights | changed, names)
    )
    with pytest.raises(ValueError, match="the logits differ by"):
        save_as_hugging_face(read, tmp_path / "there", None)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tokenizer_of_another_model_is_refused(tmp_path):
    small = make_gpt(replace(GPT2, vocab_size=100))
    model = Model(small.config, small.state_dict())
    for save in (
        lambda: save_as_hugging_face(model, tmp_path / "x", make_tokenizer()),
        lambda: save_as_ours(model, tmp_path / "x", make_tokenizer(), None),
    ):
        with pytest.raises(ValueError, match="has 287 entries, the model 100"):
            save()
    assert not list(tmp_path.iterdir())


def test_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model: give a run or a checkpoint"):
        read_any(tmp_path)
