"""Every script of both examples: its dry run's command parses, and its plan prints the accounting."""

import shlex

import pytest

pytest.importorskip("transformers")

from examples_deepspeed.data_efficiency.gpt_finetuning import finetune as gpt
from examples_deepspeed.data_efficiency.vit_finetuning import finetune as vit
from tests.examples_deepspeed.data_efficiency.finished_run import ROOT
from tests.examples_deepspeed.shell_runs import start

EXAMPLES = ROOT / "examples_deepspeed" / "data_efficiency"
ONE = ["random_ltd"]
TRAINING = {
    "gpt_finetuning/bash_script/run_base_random_ltd.sh": (gpt, "gpt2", ONE),
    "gpt_finetuning/bash_script/run_medium_random_ltd.sh": (gpt, "gpt2-medium", ONE),
    "gpt_finetuning/finetune/ds_finetune_gpt2_run.sh": (
        *(gpt, "gpt2-medium"),
        ["baseline", "random_ltd", "curriculum", "both"],
    ),
    "vit_finetuning/bash_script/run_cifar.sh": (
        *(vit, "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"),
        ONE,
    ),
    "vit_finetuning/bash_script/run_imagenet.sh": (
        *(vit, "timm:vit_base_patch16_224.augreg_in21k_ft_in1k"),
        ONE,
    ),
}
ANALYSIS = [f"gpt_finetuning/finetune/ds_analyze_gpt_data_{step}.sh" for step in ("map", "reduce")]


def test_scripts_of_the_tutorial_are_here():
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*_finetuning/*/*.sh")}
    assert found == {*TRAINING, *ANALYSIS}


@pytest.mark.parametrize("script", TRAINING)
def test_dry_run(script, tmp_path):
    module, model, variants = TRAINING[script]
    flags = ["--engine", "deepspeed", "--seeds", "1", "2", "3", "--learning-rate", "3e-3"]
    settings = {"DRY_RUN": "1", "NUM_PROCESSES": "2", "LAUNCHER": "torchrun"}
    done = start(EXAMPLES / script, *flags, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    words = shlex.split(done.stdout.splitlines()[0])
    assert "--nproc_per_node=2" in words
    place = next(number for number, word in enumerate(words) if word.endswith("/finetune.py"))
    arguments = module.parse_arguments(words[place + 1 :])
    assert (arguments.model, arguments.variant) == (model, variants)
    assert (arguments.seeds, arguments.engine) == ([1, 2, 3], "deepspeed")
    assert arguments.learning_rate == 3e-3


@pytest.mark.parametrize("script", ANALYSIS)
def test_analysis(script, tmp_path):
    done = start(EXAMPLES / script, "--output", "a b", cwd=tmp_path, DRY_RUN="1")
    words = shlex.split(done.stdout)
    assert words[-3].endswith("gpt_finetuning/analyze_data.py")
    assert words[-2:] == ["--output", "a b"]


def test_plan_of_a_script(tmp_path):
    script = EXAMPLES / "gpt_finetuning/bash_script/run_base_random_ltd.sh"
    done = start(script, "--plan", cwd=tmp_path, LAUNCHER="single")
    assert "published accounting: step 1344 consumed_token 2148032" in done.stdout


def test_bad_input_is_one_line(tmp_path):
    script = EXAMPLES / "vit_finetuning/bash_script/run_cifar.sh"
    done = start(script, "--recipe", "no.json", "--plan", cwd=tmp_path, LAUNCHER="single")
    assert done.returncode == 1
    assert done.stderr == "error: configuration file no.json does not exist\n"
