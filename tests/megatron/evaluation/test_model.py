from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron.conversion.model import read_any, save_as_hugging_face
from megatron.evaluation.model import any_gpt, load_for_evaluation
from tests.megatron.finetuning.bert_task_data import save_bert_run
from tests.megatron.small_models import GPT2, LLAMA, make_gpt, make_tokenizer, save_run


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_model_and_tokenizer_come_back(tmp_path, tokenizer):
    saved = make_gpt(replace(LLAMA, hidden_dropout=0.5))
    run = save_run(tmp_path / "run", saved, tokenizer)
    model, found = load_for_evaluation(run)
    assert found.fingerprint == tokenizer.fingerprint
    tokens = torch.arange(12)[None]
    assert torch.equal(model(tokens), saved(tokens))
    half, _ = load_for_evaluation(run / "global_step0", dtype="bfloat16")
    assert half(tokens).dtype == torch.bfloat16


def test_bad_input(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoint of ours; give a run"):
        load_for_evaluation(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"convert it with tools/convert_checkpoint.py"):
        load_for_evaluation(tmp_path)
    alone = save_run(tmp_path / "alone", make_gpt(GPT2))
    with pytest.raises(FileNotFoundError, match="no tokenizer was found"):
        load_for_evaluation(alone)
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        load_for_evaluation(alone, dtype="float64")
    small = save_run(tmp_path / "small", make_gpt(replace(GPT2, vocab_size=100)), tokenizer)
    with pytest.raises(ValueError, match="the tokenizer has 287 entries, the model 100"):
        load_for_evaluation(small)


def test_weights_that_are_not_finite_are_not_evaluated(tmp_path, tokenizer):
    model = make_gpt(GPT2)
    save_as_hugging_face(read_any(save_run(tmp_path / "run", model)), tmp_path / "hf", tokenizer)
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    weights["transformer.ln_f.bias"][0] = torch.nan
    save_file(weights, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"hf: .*final.* has numbers that are not finite"):
        load_for_evaluation(tmp_path / "hf", read=any_gpt)


def test_another_architecture(tmp_path, tokenizer):
    model = make_gpt(GPT2)
    model.register_parameter("pooler", torch.nn.Parameter(torch.ones(2)))
    run = save_run(tmp_path / "run", model, tokenizer)
    with pytest.raises(ValueError, match="is a checkpoint of another architecture: a GPT"):
        load_for_evaluation(run)
    bert = save_bert_run(tmp_path / "bert")
    save_as_hugging_face(read_any(bert), tmp_path / "theirs", None)
    for folder in (bert, tmp_path / "theirs"):
        with pytest.raises(ValueError, match="is a checkpoint of another architecture: a GPT"):
            load_for_evaluation(folder, read=any_gpt)
