"""The whole example on a small model: engines, stops, exports, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

from data_efficiency import ConfigError
from examples_deepspeed.data_efficiency.gpt_finetuning import analyze_data, finetune
from examples_deepspeed.data_efficiency.gpt_finetuning.text_blocks import TokenBlocks, split_blocks
from megatron.arguments import parse_run_config
from megatron.finetuning.foreign_model import switch_dropout_off
from tests.examples_deepspeed.data_efficiency.finished_run import (
    alone,
    as_flags,
    check_killed_twice,
    check_stopped_twice,
    check_two_processes,
    log_of,
    results_of,
    small_recipe,
)

pytestmark = pytest.mark.filterwarnings("ignore")
RECIPES = Path(finetune.__file__).parent / "recipes"


@pytest.fixture
def flags(language_model, text_file, tmp_path_factory):
    """A run of about ten steps."""
    folder = tmp_path_factory.mktemp("recipes")

    def make(save, recipe="reshape", **changes):
        more = "[data]\ngroup_rows = 0\nseparator = true\n"
        if recipe == "reshape":
            metrics = "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics"
            more += f"[{metrics}.seqlen_reshape]\nmin_difficulty = 8\n"
        values = {
            "config": small_recipe(RECIPES / f"{recipe}.toml", folder, more),
            "pretrained": language_model,
            "text": text_file,
            "seq_length": 32,
            "max_train_blocks": 40,
            "max_eval_blocks": 7,
            "epochs": 1,
            "curriculum_share": 0.4,
            "lr": 1e-3,
            "lr_decay_style": "constant",
            "eval_batch_size": 4,
            "eval_interval": 4,
            "save_interval": 3,
            "save": save,
        } | changes
        return as_flags(values)

    return make


def test_learns_and_counts(flags, tmp_path, capsys):
    assert finetune.main(flags(tmp_path, epochs=3, lr=5e-3)) == 0
    first, *_, last = results_of(tmp_path)
    assert last["validation"] == last["validation perplexity"] < 0.7 * first["validation"]
    assert last["test perplexity"] < 0.8 * first["validation"]
    assert last["kept_length"] == 32
    assert last["consumed_token"] >= 3 * 40 * 32
    assert last["layer_tokens"] < 4 * last["corpus_tokens"]
    printed = capsys.readouterr().out
    assert f"consumed_token {last['consumed_token']} best perplexity" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "run.toml"}


def test_its_own_run_file_repeats_it_to_the_bits(flags, tmp_path):
    finetune.main(flags(tmp_path / "a"))
    finetune.main(["--config", str(tmp_path / "a" / "run.toml"), "--save", str(tmp_path / "b")])
    assert results_of(tmp_path / "b") == results_of(tmp_path / "a")


def test_a_run_file_is_read_as_pretrainings_are(tmp_path, flags, capsys):
    over = small_recipe(RECIPES / "gpt2_random_ltd.toml", tmp_path, "[training]\nepoch = 3\n")
    with pytest.raises(
        ConfigError, match=r"\[training\]\.epoch .* the nearest known key is 'epochs'"
    ):
        finetune.main(["--config", str(over)])
    over.write_text(over.read_text().replace("epoch = 3", "train_iters = 3"))
    with pytest.raises(ConfigError, match="train_iters is not a known key"):
        finetune.main(["--config", str(over)])
    with pytest.raises(
        ConfigError, match=r"is of a vit_finetuning: start it with .*vit_finetuning"
    ):
        finetune.main(["--config", "cifar"])
    with pytest.raises(SystemExit):
        finetune.main(["--config", "reshape", "--print-json", "--lr", "3e-3", "--num-layers", "4"])
    section = json.loads(capsys.readouterr().out)["data_efficiency"]
    dropping = section["data_routing"]["random_ltd"]
    assert dropping["random_ltd_layer_id"] == [1, 2]
    assert dropping["random_ltd_schedule"]["schedule_config"]["require_steps"] == 393
    with pytest.raises(ValueError, match="not given: --num-layers: needed to know the run before"):
        finetune.main(["--config", str(bare(tmp_path)), "--print-json"])


def bare(folder):
    """A run file that says nothing of its size."""
    path = folder / "bare.toml"
    path.write_text(
        'architecture = "gpt_finetuning"\n[model]\npretrained = "x"\n[data]\nnum_samples = 8\n'
    )
    return path


def test_stopped_twice_and_resumed_gives_the_same_numbers(flags, tmp_path, monkeypatch):
    # Two micro-batches a step and two validation batches, before the first step and after the fourth.
    check_stopped_twice(finetune, flags, tmp_path, monkeypatch, TokenBlocks, 9)


def test_a_finished_run_is_passed_over(flags, tmp_path, capsys):
    finetune.main(flags(tmp_path))
    log = (tmp_path / "log.jsonl").read_bytes()
    capsys.readouterr()
    assert finetune.main(flags(tmp_path)) == 0
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "log.jsonl").read_bytes() == log


def test_another_run_in_the_folder_is_refused(flags, tmp_path):
    finetune.main(flags(tmp_path))
    with pytest.raises(ValueError, match=r"is of another run: its lr is 0\.001, here 0\.1"):
        finetune.main(flags(tmp_path, lr=0.1))


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
    config = parse_run_config("", flags(tmp_path), architecture="gpt_finetuning")
    test = split_blocks(config)["test"]
    batch = test.get_batch(np.arange(len(test)), None)
    np.savez(tmp_path / "test.npz", **{name: part.numpy() for name, part in batch.items()})
    found = alone(ALONE, folder, tmp_path / "test.npz")
    expected = results_of(tmp_path)[-1]["test perplexity"]
    assert found["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert found["words"][0] == found["words"][1]
    assert found["tied"]


def test_rarity_needs_the_analysis_of_the_same_text(flags, tmp_path):
    more = {"recipe": "rarity", "difficulty": tmp_path / "difficulty"}
    analyze_data.main(flags(tmp_path, **more))
    finetune.main(flags(tmp_path / "run", log_interval=1, **more))
    assert results_of(tmp_path / "run")[-1]["steps"] >= 10
    assert log_of(tmp_path / "run").train[0]["pool_size"] < 40
    with pytest.raises(ValueError, match="shape"):
        finetune.main(flags(tmp_path / "x", **more, max_train_blocks=39))
    with pytest.raises(ValueError, match="no metric that selects samples: nothing to analyze"):
        analyze_data.main(flags(tmp_path))


def test_block_size_above_the_models_positions_is_refused(flags, tmp_path):
    with pytest.raises(ValueError, match="--seq-length is 65, but .* has 64 positions"):
        finetune.main(flags(tmp_path, seq_length=65))


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
        finetune.main(flags(tmp_path / "run", pretrained=tmp_path / "model"))


def test_dropout_can_be_switched_off(language_model):
    model = AutoModelForCausalLM.from_pretrained(language_model).train()
    tokens = torch.arange(32)[None]
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    switch_dropout_off(model)
    assert torch.equal(model(tokens).logits, model(tokens).logits)


EXACT = ("steps", "corpus_tokens", "layer_tokens", "consumed_token")


@pytest.mark.full
@pytest.mark.parametrize("deepspeed", [False, True])
def test_two_processes_compute_what_one_does(flags, tmp_path, deepspeed):
    check_two_processes(finetune, flags, tmp_path, deepspeed, exact=EXACT, dropout=False)


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_twice_and_resumed(flags, tmp_path, seed):
    check_killed_twice(finetune, flags, tmp_path, seed=seed, before=35, epochs=4)


@pytest.mark.full
@pytest.mark.parametrize("deepspeed", [False, True])
def test_two_processes_killed_and_resumed(flags, tmp_path, deepspeed):
    more = {"epochs": 4, "eval_interval": 1, "dropout": False}
    check_two_processes(finetune, flags, tmp_path, deepspeed, exact=EXACT, before=30, **more)
