"""The published accounting, to the digit, by the programs' own --plan."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from examples_deepspeed.data_efficiency.gpt_finetuning import finetune as gpt
from examples_deepspeed.data_efficiency.vit_finetuning import finetune as vit

EXAMPLES = Path(gpt.__file__).parents[1]
GPT, VIT = EXAMPLES / "gpt_finetuning" / "recipes", EXAMPLES / "vit_finetuning" / "recipes"


def plan_text(capsys, recipe, *flags):
    gpt.main(["--plan", "--recipe", str(GPT / recipe), *flags])
    return capsys.readouterr().out


def plan_images(capsys, *recipes, more=()):
    vit.main(["--plan", "--recipe", *map(str, recipes), *more])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "published", "saved"),
    [
        ("gpt2_random_ltd.toml", "step 1344 consumed_token 2148032", "21.9 % saved"),
        ("gpt2_medium_random_ltd.toml", "step 1373 consumed_token 2147024", "23.6 % saved"),
    ],
)
def test_quick_recipes(capsys, recipe, published, saved):
    printed = plan_text(capsys, recipe)
    assert f"published accounting: {published}" in printed
    assert saved in printed


@pytest.mark.parametrize(
    ("recipe", "variant", "steps", "corpus_tokens", "consumed"),
    [
        ("reshape.toml", "baseline", 1310, 5365760, 5365760),
        ("reshape.toml", "random_ltd", 1470, 6021120, 5367632),
        ("reshape.toml", "both", 1419, None, 5366358),
        ("truncate.toml", "curriculum", 1758, None, None),
    ],
)
def test_published_sweep(capsys, recipe, variant, steps, corpus_tokens, consumed):
    printed = plan_text(capsys, recipe, "--variant", variant)
    assert f"{steps} optimizer steps" in printed
    if corpus_tokens is not None:
        assert f"corpus tokens {corpus_tokens} " in printed
    if consumed is not None:
        assert f"consumed_token {consumed}, " in printed


def test_all_variants_of_a_sweep_are_planned(capsys):
    printed = plan_text(capsys, "reshape.toml", "--variant", "baseline", "random_ltd", "both")
    assert printed.count("published accounting") == 3


def test_cifar_beside_the_true_figure(capsys):
    printed = plan_images(capsys, VIT / "cifar.toml")
    assert "5474 steps of 128 images" in printed
    assert "layer_token 1223136768" in printed
    assert "32 images a step: layer_token 305784192" in printed
    assert "26.2 % saved" in printed


def test_a_budget_without_end_is_refused(tmp_path, capsys):
    over = tmp_path / "over.toml"
    over.write_text("[flags]\nepochs = 1e30\n")
    with pytest.raises(ValueError, match="takes more than 10,000,000 steps: lower --epochs"):
        plan_images(capsys, VIT / "cifar.toml", over)


def test_imagenet_saves_what_was_published(capsys):
    printed = plan_images(capsys, VIT / "imagenet.toml")
    assert "70070 steps of 256 images" in printed
    assert "22.3 % saved" in printed


def test_the_shipped_imagenet_schedule_saves_little(tmp_path, capsys):
    over = tmp_path / "shipped.toml"
    over.write_text("train_batch_size = 256\n[flags]\nnum_samples = 1281167\n")
    assert "2.0 % saved" in plan_images(capsys, VIT / "cifar.toml", over)
