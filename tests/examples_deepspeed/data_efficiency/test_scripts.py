"""Every script of both examples: its dry run's commands parse, and its plan prints the accounting."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from examples_deepspeed.data_efficiency.gpt_finetuning import analyze_data
from examples_deepspeed.data_efficiency.gpt_finetuning import finetune as gpt
from examples_deepspeed.data_efficiency.vit_finetuning import analyze_images
from examples_deepspeed.data_efficiency.vit_finetuning import finetune as vit
from tests.examples_deepspeed.data_efficiency.finished_run import ROOT
from tests.examples_deepspeed.shell_runs import start

EXAMPLES = ROOT / "examples_deepspeed" / "data_efficiency"
SCRIPTS = sorted(
    path.relative_to(EXAMPLES)
    for path in EXAMPLES.glob("*_finetuning/*/*.sh")
    if path.name != "quick_recipe.sh"
)
MODULES = {module.__name__: module for module in (gpt, vit)}
OTHERS = {module.__name__ for module in (analyze_data, analyze_images)}
TOOLS = ("prepare_demo_corpus.py", "prepare_demo_models.py", "report.py")


def run_script(script, folder, **settings):
    """The output of a script that runs nothing."""
    return start(EXAMPLES / script, cwd=folder, **({"DRY_RUN": "1"} | settings))


def test_scripts_of_the_tutorial_are_here():
    assert {path.name for path in SCRIPTS} == {
        "run_base_random_ltd.sh",
        "run_medium_random_ltd.sh",
        "ds_analyze_gpt_data_map.sh",
        "ds_analyze_gpt_data_reduce.sh",
        "ds_finetune_gpt2_run.sh",
        "run_cifar.sh",
        "run_imagenet.sh",
    }


@pytest.mark.parametrize("size", ["published", "cpu"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_dry_run(script, size, tmp_path):
    more = {"CURRICULUM": "rarity"} if "ds_finetune" in script.name else {}
    if size == "cpu" and script.name == "run_cifar.sh":
        more = {"VARIANT": "both"}
    done = run_script(
        script, tmp_path, SIZE=size, ENGINE="deepspeed", NPROC="2", SEEDS="1 2 3", **more
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert commands
    for command in commands:
        if "-m" not in command:
            assert Path(command[1]).name in TOOLS
            continue
        place = max(number for number, word in enumerate(command) if word == "-m") + 1
        if command[place] in OTHERS:
            continue
        arguments = MODULES[command[place]].parse_arguments(command[place + 1 :])
        assert (arguments.seeds, arguments.engine) == ([1, 2, 3], "deepspeed")
        assert "--nproc-per-node" in command[:place]
        assert Path(arguments.recipe).is_file()


@pytest.mark.parametrize(
    ("setting", "value"), [("ENGINE", "jax"), ("SIZE", "large"), ("NPROC", "0")]
)
def test_wrong_setting_is_one_line(setting, value, tmp_path):
    done = run_script(SCRIPTS[0], tmp_path, **{setting: value})
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {setting} is {value}: .*\n", done.stderr)


@pytest.mark.parametrize(
    ("script", "size", "expected"),
    [
        ("vit_finetuning/bash_script/run_cifar.sh", "published", ".venv-vit/bin/python"),
        ("vit_finetuning/bash_script/run_cifar.sh", "cpu", ".venv/bin/python"),
        ("gpt_finetuning/bash_script/run_base_random_ltd.sh", "published", ".venv/bin/python"),
    ],
)
def test_each_example_takes_the_environment_made_for_it(script, size, expected, tmp_path):
    """Of those that are there; a PYTHON that is given comes before both."""
    place = tmp_path / "examples_deepspeed" / "data_efficiency"
    place.parent.mkdir()
    place.symlink_to(EXAMPLES)
    for name in (".venv", ".venv-vit"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin" / "python").touch(mode=0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(
        ["bash", str(place / script)],
        cwd=tmp_path,
        env=environment | {"DRY_RUN": "1", "SIZE": size},
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()[-1].split()
    assert words[0] == str(tmp_path / expected)
    given = run_script(script, tmp_path, SIZE=size, PYTHON="mine").stdout.splitlines()[-1]
    assert given.startswith("mine ")


def test_imagenet_needs_its_folder(tmp_path):
    done = run_script("vit_finetuning/bash_script/run_imagenet.sh", tmp_path, DRY_RUN="")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "IMAGENET is not set" in done.stderr


def test_plan_of_a_script(tmp_path):
    done = run_script(
        "gpt_finetuning/bash_script/run_base_random_ltd.sh", tmp_path, DRY_RUN="", PLAN="1"
    )
    assert "published accounting: step 1344 consumed_token 2148032" in done.stdout


def test_bad_input_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", vit.__name__, "--model", "x", "--recipe", "no.json", "--plan"]
        + ["--variant", "baseline", "--num-samples", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: configuration file no.json does not exist\n"
