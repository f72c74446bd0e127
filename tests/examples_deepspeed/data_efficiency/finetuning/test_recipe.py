import argparse
from pathlib import Path

import pytest

from data_efficiency import ConfigError
from examples_deepspeed.data_efficiency.finetuning import recipe
from examples_deepspeed.data_efficiency.finetuning.recipe import (
    add_run_flags,
    each_variant,
    fill_recipe,
    parse_with_recipe,
    read_recipe,
)

EXAMPLES = Path(recipe.__file__).parents[1]
RESHAPE = EXAMPLES / "gpt_finetuning" / "recipes" / "reshape.toml"
RECIPES = sorted(EXAMPLES.glob("*_finetuning/recipes/*.toml"))
RECIPES.remove(EXAMPLES / "gpt_finetuning" / "recipes" / "smollm2.toml")  # laid over others
SIZE = {"num_layers": 12, "length": 197, "num_samples": 1000, "seed": 5}
AUTO_SIZES = {"batch_size": 8, "micro_batch_size": 4}


def filled(path, variant, num_layers=12, **flags):
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    words = ["--recipe", str(path), "--variant", variant]
    (arguments,) = each_variant(parser.parse_args(words))
    vars(arguments).update({"index": "difficulty", "epochs": 2} | flags)
    return fill_recipe(arguments, **SIZE | {"num_layers": num_layers})


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
@pytest.mark.parametrize("variant", recipe.VARIANTS)
def test_every_recipe_gives_the_variants_it_has(path, variant):
    layers = 24 if "medium" in path.name else 12
    _, content = read_recipe([str(path)])
    sizes = AUTO_SIZES if content["train_batch_size"] == "auto" else {}
    technique = content["data_efficiency"]
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
    rarity = EXAMPLES / "gpt_finetuning" / "recipes" / "rarity.toml"
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
    cifar = EXAMPLES / "vit_finetuning" / "recipes" / "cifar.toml"
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


def test_flags_of_recipes_come_before_those_of_the_command_line(tmp_path):
    (tmp_path / "a.toml").write_text(
        'train_batch_size = 8\n[flags]\nvariant = ["curriculum"]\nexport = true\nepochs = 3\nbf16 = true\n'
    )
    (tmp_path / "b.toml").write_text("train_batch_size = 4\n[flags]\nbf16 = false\nepochs = 2\n")
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    paths = [str(tmp_path / name) for name in ("a.toml", "b.toml")]
    arguments = parse_with_recipe(parser, ["--seeds", "3", "--epochs", "1", "--recipe", *paths])
    assert (arguments.variant, arguments.export, arguments.bf16) == (["curriculum"], True, False)
    assert (arguments.epochs, arguments.seeds) == (1, [3])
    assert read_recipe(paths)[1] == {"train_batch_size": 4}


def test_the_curriculum_beside_random_ltd_may_be_shorter():
    lengths = [
        filled(RESHAPE, variant, composed_curriculum_share=0.1, **AUTO_SIZES)
        .data_efficiency.length_plans[0]
        .schedule.total_curriculum_step
        for variant in ("curriculum", "both")
    ]
    assert lengths == [175, 25]
