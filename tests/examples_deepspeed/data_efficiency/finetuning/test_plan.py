"""The published accounting, to the digit, by the programs' own --plan."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from examples_deepspeed.data_efficiency.gpt_finetuning import finetune as gpt
from examples_deepspeed.data_efficiency.vit_finetuning import finetune as vit

EXAMPLES = Path(gpt.__file__).parents[1]
GPT, VIT = EXAMPLES / "gpt_finetuning" / "configs", EXAMPLES / "vit_finetuning" / "configs"


def plan_text(capsys, recipe, variant, *flags):
    gpt.main(
        [
            *("--plan", "--model", "unread", "--recipe", str(GPT / recipe)),
            *("--variant", variant, "--num-blocks", "1048"),
            *("--batch-size", "4", "--micro-batch-size", "2", *flags),
        ]
    )
    return capsys.readouterr().out


def plan_images(capsys, recipe, *flags):
    vit.main(
        [
            *("--plan", "--model", "unread", "--recipe", str(VIT / recipe)),
            *("--variant", "random_ltd", *flags),
        ]
    )
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "num_layers", "published", "saved"),
    [
        ("gpt2_random_ltd.json", 12, "step 1344 consumed_token 2148032", "21.9 % saved"),
        ("gpt2_medium_random_ltd.json", 24, "step 1373 consumed_token 2147024", "23.6 % saved"),
    ],
)
def test_quick_recipes(capsys, recipe, num_layers, published, saved):
    printed = plan_text(capsys, recipe, "random_ltd", "--num-layers", str(num_layers))
    assert f"published accounting: {published}" in printed
    assert saved in printed


@pytest.mark.parametrize(
    ("recipe", "variant", "share", "steps", "corpus_tokens", "consumed"),
    [
        ("reshape.json", "baseline", 0.7, 1310, 5365760, 5365760),
        ("reshape.json", "random_ltd", 0.7, 1470, 6021120, 5367632),
        ("reshape.json", "both", 0.1, 1419, None, 5366358),
        ("truncate.json", "curriculum", 0.7, 1758, None, None),
    ],
)
def test_published_sweep(capsys, recipe, variant, share, steps, corpus_tokens, consumed):
    flags = ("--num-layers", "24", "--epochs", "5", "--curriculum-share", str(share))
    printed = plan_text(capsys, recipe, variant, *flags)
    assert f"{steps} optimizer steps" in printed
    if corpus_tokens is not None:
        assert f"corpus tokens {corpus_tokens} " in printed
    if consumed is not None:
        assert f"consumed_token {consumed}, " in printed


def test_cifar_beside_the_true_figure(capsys):
    flags = ("--num-samples", "50000", "--counted-batch", "32")
    printed = plan_images(capsys, "cifar_random_ltd.json", *flags)
    assert "5474 steps of 128 images" in printed
    assert "layer_token 1223136768" in printed
    assert "32 images a step: layer_token 305784192" in printed
    assert "26.2 % saved" in printed


def test_imagenet_saves_what_was_published(capsys):
    flags = ("--num-samples", "1281167", "--random-ltd-share", "0.76")
    printed = plan_images(capsys, "imagenet_random_ltd.json", *flags)
    assert "70070 steps of 256 images" in printed
    assert "22.3 % saved" in printed


def test_the_shipped_imagenet_schedule_saves_little(tmp_path, capsys):
    recipe = tmp_path / "shipped.json"
    cifar = json.loads((VIT / "cifar_random_ltd.json").read_text())
    recipe.write_text(json.dumps(cifar | {"train_batch_size": 256}))
    assert "2.0 % saved" in plan_images(capsys, recipe, "--num-samples", "1281167")
