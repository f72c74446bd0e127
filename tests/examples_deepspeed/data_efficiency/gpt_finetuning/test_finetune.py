"""The whole example on a small model: engines, stops, exports, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

from examples_deepspeed.data_efficiency.gpt_finetuning import analyze_data, finetune
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import TokenBlocks
from tests.examples_deepspeed.data_efficiency.finished_run import (
    alone,
    as_flags,
    check_killed_twice,
    check_stopped_twice,
    check_two_processes,
    json_of,
    results_of,
    stop_after,
)

pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = Path(finetune.__file__).parent / "recipes"


@pytest.fixture
def flags(language_model, text_file, tmp_path_factory):
    """A run of about ten steps."""
    folder = tmp_path_factory.mktemp("recipes")

    def make(save, recipe="reshape", **changes):
        values = {
            "model": language_model,
            "text": text_file,
            "recipe": json_of(RECIPES / f"{recipe}.toml", folder),
            "variant": "both",
            "block_size": 32,
            "max_train_blocks": 40,
            "max_eval_blocks": 7,
            "epochs": 1,
            "batch_size": 4,
            "micro_batch_size": 2,
            "curriculum_start": 8,
            "curriculum_share": 0.4,
            "learning_rate": 1e-3,
            "eval_interval": 4,
            "save_interval": 3,
            "save": save,
        } | changes
        return as_flags(values)

    return make


def test_learns_and_counts(flags, tmp_path, capsys):
    finetune.main(flags(tmp_path, epochs=3, learning_rate=5e-3))
    results = results_of(tmp_path)
    first, last = results["history"][0], results["history"][-1]
    assert last["validation"] < 0.7 * first["validation"]
    assert results["test"] < 0.8 * first["validation"]
    assert last["kept_length"] == 32
    assert results["consumed_token"] >= 3 * 40 * 32
    assert results["layer_tokens"] < results["num_layers"] * results["corpus_tokens"]
    printed = capsys.readouterr().out
    assert f"consumed_token {results['consumed_token']} best perplexity" in printed


def test_stopped_twice_and_resumed_gives_the_same_numbers(flags, tmp_path, monkeypatch):
    # Two micro-batches a step and two validation batches, before the first step and after the fourth.
    check_stopped_twice(finetune, flags, tmp_path, monkeypatch, TokenBlocks, 9)


def test_finished_seeds_are_passed_over(flags, tmp_path, capsys, monkeypatch):
    finetune.main([*flags(tmp_path), "--seeds", "1", "2"])
    capsys.readouterr()
    stop_after(monkeypatch, TokenBlocks, 0)
    finetune.main([*flags(tmp_path), "--seeds", "1", "2"])
    assert capsys.readouterr().out.count("is finished") == 2


def test_another_run_in_the_folder_is_refused(flags, tmp_path):
    finetune.main(flags(tmp_path))
    with pytest.raises(
        ValueError, match=r"is of another run: its learning_rate is 0\.001, here 0\.1"
    ):
        finetune.main(flags(tmp_path, learning_rate=0.1))


ALONE = """
import json, numpy, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
data = numpy.load(sys.argv[2])
with torch.no_grad():
    logits = model(torch.from_numpy(data["input_ids"])).logits
labels = torch.from_numpy(data["labels"]).flatten()
print(json.dumps({
    "perplexity": float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels).exp()),
    "words": [len(AutoTokenizer.from_pretrained(sys.argv[1])), model.config.vocab_size],
    "tied": model.lm_head.weight is model.transformer.wte.weight,
}))
"""


def test_exported_model_loads_without_this_library(flags, tmp_path):
    finetune.main(flags(tmp_path, export=True))
    (folder,) = tmp_path.rglob("model")
    test = finetune.split_blocks(finetune.parse_arguments(flags(tmp_path)))["test"]
    batch = test.get_batch(np.arange(len(test)), None)
    np.savez(tmp_path / "test.npz", **{name: part.numpy() for name, part in batch.items()})
    found = alone(ALONE, folder, tmp_path / "test.npz")
    assert found["perplexity"] == pytest.approx(results_of(tmp_path)["test"], rel=1e-5)
    assert found["words"][0] == found["words"][1]
    assert found["tied"]


def test_rarity_needs_the_analysis_of_the_same_text(flags, tmp_path):
    text_flags = flags(tmp_path)
    chosen = [*text_flags[:4], "--block-size", "32", "--max-train-blocks", "40"]
    analyze_data.main([*chosen, "--output", str(tmp_path / "difficulty")])
    index = tmp_path / "difficulty" / "vocab_rarity"
    finetune.main(flags(tmp_path / "run", recipe="rarity", index=index))
    assert results_of(tmp_path / "run")["steps"] >= 10
    with pytest.raises(ValueError, match="shape"):
        finetune.main(flags(tmp_path / "x", recipe="rarity", index=index, max_train_blocks=39))


def test_block_size_above_the_models_positions_is_refused(flags, tmp_path):
    with pytest.raises(ValueError, match="--block-size is 65, but .* has 64 positions"):
        finetune.main(flags(tmp_path, block_size=65))


def test_layers_that_no_preset_fits_are_refused(flags, language_model, tmp_path):
    config = GPTNeoConfig(
        vocab_size=300,
        hidden_size=16,
        num_layers=4,
        num_heads=2,
        max_position_embeddings=64,
        attention_types=[[["global"], 4]],
    )
    GPTNeoForCausalLM(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(language_model).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"layers of none of the classes .* GPTNeoBlock \(4\)"):
        finetune.main(flags(tmp_path / "run", model=tmp_path / "model"))


def test_dropout_can_be_switched_off(language_model):
    model = AutoModelForCausalLM.from_pretrained(language_model).train()
    tokens = torch.arange(32)[None]
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    finetune.switch_dropout_off(model)
    assert torch.equal(model(tokens).logits, model(tokens).logits)


EXACT = ("steps", "corpus_tokens", "layer_tokens", "consumed_token")


@pytest.mark.parametrize("engine", [pytest.param("torch", marks=pytest.mark.full), "deepspeed"])
def test_two_processes_compute_what_one_does(flags, tmp_path, engine):
    check_two_processes(finetune, flags, tmp_path, engine, exact=EXACT, no_dropout=True)


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_twice_and_resumed(flags, tmp_path, seed):
    check_killed_twice(finetune, flags, tmp_path, seed=seed, before=35, epochs=4)


@pytest.mark.full
@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_two_processes_killed_and_resumed(flags, tmp_path, engine):
    more = {"epochs": 4, "eval_interval": 1, "no_dropout": True}
    check_two_processes(finetune, flags, tmp_path, engine, exact=EXACT, before=30, **more)
