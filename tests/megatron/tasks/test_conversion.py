"""Whole conversions through files: bits, logits, tokenizers, and what is left behind after an error."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron.tasks import conversion
from megatron.tasks.conversion import Model, read_any, save_as_hugging_face, save_as_ours
from tests.megatron.tasks.small_models import GPT2, LLAMA, make_gpt, make_tokenizer, save_run
from tests.megatron.tasks.test_conversion_deepspeed import write_checkpoint

FAMILIES = {
    "gpt2": GPT2,
    "gpt2_untied": replace(GPT2, untie_embeddings_and_output_weights=True),
    "llama": LLAMA,
    "llama_untied": replace(LLAMA, untie_embeddings_and_output_weights=True),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_to_hugging_face_to_ours_gives_the_same_bits(tmp_path, family):
    config = FAMILIES[family]
    model = make_gpt(config)
    run = save_run(tmp_path / "run", model)
    there = save_as_hugging_face(read_any(run), tmp_path / "there", make_tokenizer())
    assert there.largest_difference < 1e-4
    assert there.num_parameters == sum(weight.numel() for weight in model.parameters())
    read = read_any(tmp_path / "there")
    assert (read.config.vocab_size, read.config.padded_vocab_size) == (
        config.vocab_size,
        config.padded_vocab_size,
    )
    save_as_ours(read, tmp_path / "back", make_tokenizer(), tmp_path / "there")
    weights, expected = read_any(tmp_path / "back").weights, model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_folder_works_as_users_load_it(tmp_path):
    model, tokenizer = make_gpt(LLAMA), make_tokenizer()
    run = save_run(tmp_path / "run", model)
    save_as_hugging_face(read_any(run), tmp_path / "there", tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    ids = AutoTokenizer.from_pretrained(tmp_path / "there")("the cat", return_tensors="pt")
    assert torch.allclose(theirs(**ids).logits, model(ids["input_ids"]), atol=1e-4)


def test_megatron_deepspeed_to_hugging_face(tmp_path):
    model = make_gpt(GPT2)
    run = write_checkpoint(tmp_path / "run", model)
    save_as_hugging_face(read_any(run, vocab_size=300), tmp_path / "there", None)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "there")
    ids = torch.arange(20)[None]
    assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-4)


def test_a_model_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    read = read_any(save_run(tmp_path / "run", make_gpt(GPT2)))
    norm = "language_model.final_layernorm.weight"
    # What is written comes from other weights than what is compared with.
    changed = dict(read.weights) | {norm: read.weights[norm] + 0.01}
    rules = conversion.to_theirs
    monkeypatch.setattr(conversion, "to_theirs", lambda _, names: rules(changed, names))
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
