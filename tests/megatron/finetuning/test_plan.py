"""The published accounting, to the digit, and the same totals wherever a plan is asked for."""

import pytest

from megatron.arguments import parse_run_config
from megatron.finetuning.plan import plan_finetuning
from megatron.recipes import planned_cost
from tools import plan
from tools.study import main as study_main

TECHNIQUES = {
    "baseline": ["--no-random-ltd", "--no-data-efficiency-curriculum-learning"],
    "random_ltd": ["--no-data-efficiency-curriculum-learning"],
    "curriculum": ["--no-random-ltd", "--curriculum-share", "0.7"],
    "both": [],
}


@pytest.mark.parametrize(
    ("recipe", "flags", "expected"),
    [
        ("gpt2_random_ltd", [], ["step 1344 consumed_token 2148032", "21.9 % saved"]),
        ("gpt2_medium_random_ltd", [], ["step 1373 consumed_token 2147024", "23.6 % saved"]),
        (
            *("reshape", TECHNIQUES["baseline"]),
            ["1310 optimizer steps", "corpus tokens 5365760 ", "consumed_token 5365760, "],
        ),
        (
            *("reshape", TECHNIQUES["random_ltd"]),
            ["1470 optimizer steps", "corpus tokens 6021120 ", "consumed_token 5367632, "],
        ),
        (
            *("reshape", TECHNIQUES["both"]),
            ["1419 optimizer steps", "consumed_token 5366358, ", "8.9 % saved"],
        ),
        ("truncate", TECHNIQUES["curriculum"], ["1758 optimizer steps", "consumed_token 5368768"]),
        ("rarity", TECHNIQUES["both"], ["1470 optimizer steps"]),
        (
            *("cifar", []),
            [
                *("5474 steps of 128 images", "layer_token 1223136768", "26.2 % saved"),
                "32 images a step: layer_token 305784192",
            ],
        ),
        ("imagenet", [], ["70070 steps of 256 images", "22.3 % saved"]),
        ("dinov2", TECHNIQUES["random_ltd"], ["103 steps of 32 images", "layer_token 1161664"]),
    ],
)
def test_published_accounting(recipe, flags, expected, capsys):
    assert plan.main(["--config", recipe, *flags]) == 0
    printed = capsys.readouterr().out
    assert [text for text in expected if text not in printed] == []


def test_the_shipped_imagenet_schedule_saves_little(tmp_path, capsys):
    over = tmp_path / "shipped.toml"
    over.write_text(
        'base = ["cifar"]\n[training]\nglobal_batch_size = 256\nmicro_batch_size = 256\n'
    )
    assert plan.main(["--config", str(over), "--num-samples", "1281167"]) == 0
    assert "2.0 % saved" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["reshape", "truncate", "rarity", "smollm2"])
def test_a_recipe_of_both_drops_tokens(recipe):
    """Rows grew so slowly that they were never longer than what the layers kept."""
    config = parse_run_config("", ["--config", recipe], architecture="gpt_finetuning")
    total = plan_finetuning(config)[1]
    assert total.layer_tokens < 0.97 * config.model.num_layers * total.corpus_tokens


def test_a_budget_without_end_is_refused(refused):
    found = refused(plan.main, ["--config", "cifar", "--epochs", "1e30"])
    assert "takes more than 10,000,000 steps: lower --epochs" in found


def test_a_study_and_its_runs_plan_the_same(tmp_path, capsys):
    config = parse_run_config("", ["--config", "reshape"], architecture="gpt_finetuning")
    total = plan_finetuning(config)[1]
    assert planned_cost(config) == total
    (tmp_path / "study.toml").write_text('[study]\nbase = "reshape"\n[arms.baseline]\n')
    assert study_main(["plan", str(tmp_path / "study.toml")]) == 0
    assert f"| baseline | 1 | 1 | 1 | {total.steps:,} |" in capsys.readouterr().out
