import argparse
import json
from pathlib import Path

import pytest

from data_efficiency import ConfigError
from examples_deepspeed.data_efficiency.finetuning import recipe
from examples_deepspeed.data_efficiency.finetuning.recipe import add_run_flags, fill_recipe

EXAMPLES = Path(recipe.__file__).parents[1]
RESHAPE = EXAMPLES / "gpt_finetuning" / "configs" / "reshape.json"
RECIPES = sorted(EXAMPLES.glob("*_finetuning/configs/*.json"))
SIZE = {"num_layers": 12, "length": 197, "num_samples": 1000, "seed": 5}
AUTO_SIZES = {"batch_size": 8, "micro_batch_size": 4}


def filled(path, variant, num_layers=12, **flags):
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    arguments = parser.parse_args(["--recipe", str(path), "--variant", variant])
    vars(arguments).update({"index": "difficulty", "epochs": 2} | flags)
    return fill_recipe(arguments, **SIZE | {"num_layers": num_layers})


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
@pytest.mark.parametrize("variant", recipe.VARIANTS)
def test_every_recipe_gives_the_variants_it_has(path, variant):
    layers = 24 if "medium" in path.name else 12
    auto = json.loads(path.read_text())["train_batch_size"] == "auto"
    sizes = AUTO_SIZES if auto else {}
    technique = json.loads(path.read_text())["data_efficiency"]
    has = {"curriculum": "data_sampling" in technique, "random_ltd": "data_routing" in technique}
    has["both"] = all(has.values())
    if not has.get(variant, True):
        with pytest.raises(ValueError, match=f"--variant is {variant}"):
            filled(path, variant, num_layers=layers, **sizes)
        return
    config = filled(path, variant, num_layers=layers, **sizes)
    assert (config.data_efficiency.random_ltd is not None) == (variant in ("random_ltd", "both"))
    assert bool(config.data_efficiency.schedules) == (variant in ("curriculum", "both"))
    assert config.data_efficiency.seed == 5


def test_auto_values_follow_the_size_of_the_run():
    config = filled(RESHAPE, "both", curriculum_share=0.1, **AUTO_SIZES)
    dropping = config.data_efficiency.random_ltd
    assert dropping.random_ltd_layer_id == tuple(range(1, 11))
    assert dropping.schedule.min_difficulty == 24
    assert dropping.schedule.max_difficulty == 197
    assert dropping.schedule.total_curriculum_step == 75
    (metric,) = config.data_efficiency.length_plans
    assert (metric.min_difficulty, metric.max_difficulty) == (6, 197)
    assert metric.schedule.total_curriculum_step == 25
    assert config.batch_sizes(1) == (4, 2)


def test_kept_positions_and_precision():
    config = filled(RESHAPE, "random_ltd", always_keep=[0], bf16=True, **AUTO_SIZES)
    assert config.data_efficiency.random_ltd.always_keep == (0,)
    assert config.engine_sections["bf16"] == {"enabled": True}


def test_missing_index_is_named():
    rarity = EXAMPLES / "gpt_finetuning" / "configs" / "rarity.json"
    with pytest.raises(ValueError, match=r"vocab_rarity.index_path is auto in .*--index"):
        filled(rarity, "both", index=None, **AUTO_SIZES)


def test_batch_size_must_be_known(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"train_batch_size is None .* or as --batch-size"):
        filled(
            path,
            "baseline",
        )
    assert filled(path, "baseline", **AUTO_SIZES).batch_sizes(1) == (4, 2)


def test_batch_size_of_the_file_holds():
    cifar = EXAMPLES / "vit_finetuning" / "configs" / "cifar_random_ltd.json"
    with pytest.raises(ConfigError, match="train_batch_size is 128 in the JSON file but 64"):
        filled(cifar, "baseline", batch_size=64)
    assert filled(cifar, "baseline", batch_size=128).train_batch_size == 128
    halves = filled(cifar, "baseline", micro_batch_size=64)
    assert halves.batch_sizes(1) == (64, 2)


def test_contradiction_is_an_error(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"train_batch_size": 8, "bf16": {"enabled": false}}')
    with pytest.raises(ConfigError, match="bf16.enabled"):
        filled(path, "baseline", bf16=True)
