"""Every recipe, scaled down, really run: all in this process, some by launch.sh in two."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import pretrain_gpt
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.recipes import Catalogue
from tests.end_to_end.tiny_runs import ROOT, run_command
from tools import recipe

SHIPPED = Catalogue(ROOT / "examples_deepspeed" / "data_efficiency")
IN_EVERY_PUSH = ("gpt_cl_ltd_300b", "gpt_cl_voc_reshape_300b")
NAMES = [
    pytest.param(name, marks=() if name in IN_EVERY_PUSH else pytest.mark.full)
    for name in SHIPPED.recipes
    if name.startswith("gpt_")
]


@pytest.fixture(scope="session")
def recipe_data(tmp_path_factory):
    """A corpus and its index for the scaled-down sequence length and the recipes' split."""
    folder = tmp_path_factory.mktemp("recipes")
    generator = np.random.default_rng(3)
    lengths = generator.integers(20, 400, 400).astype(np.int32)
    tokens = (generator.zipf(1.4, lengths.sum()) % 400).astype(np.uint16)
    with IndexedDatasetWriter(folder / "corpus", np.dtype("uint16")) as writer:
        writer.add_documents(tokens, lengths)
        writer.finish({"vocab_size": 400})
    run_command(
        *("tools/analyze_data.py", "run", "--data-path", folder / "corpus"),
        *("--split", "949,50,1", "--seq-length", 64, "--metric", "vocab_rarity"),
        *("--save", folder / "difficulty", "--num-processes", 1),
    )
    return folder


def launch(name, data, save, *flags, **settings):
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "SCALE_DOWN": "1",
        "DATA_PATH": str(data / "corpus"),
        "DIFFICULTY": str(data / "difficulty"),
        "SAVE": str(save),
        **settings,
    }
    environment.pop("SLURM_JOB_ID", None)
    script = ROOT / "examples_deepspeed" / "launch.sh"
    done = subprocess.run(
        ["bash", str(script), name, "--vocab-size", "400", *flags],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_kept_its_shape(save):
    lines = [json.loads(line) for line in (save / "log.jsonl").read_text().splitlines()]
    assert "--train-tokens" in lines[-1]["reason"]
    start = next(line for line in lines if line["kind"] == "start")
    steps = [line for line in lines if line["kind"] == "train"]
    assert len(steps) >= 19
    assert steps[-1]["loss"] < steps[0]["loss"]
    section = start["data_efficiency"]
    metrics = section["data_sampling"]["curriculum_learning"].get("curriculum_metrics", {})
    for metric in metrics:
        assert len({step["difficulties"][metric] for step in steps}) > 2
    if "vocab_rarity" in metrics:
        assert steps[0]["pool_size"] < steps[-1]["pool_size"] == start["train_samples_in_dataset"]
    if {"seqlen_truncate", "seqlen_reshape"} & set(metrics):
        lengths = [step["sequence_length"] for step in steps]
        assert lengths[0] < lengths[-1] == 64
        assert len(set(lengths)) > 2
    if section["data_routing"]["random_ltd"]["enabled"]:
        assert len({step["kept_length"] for step in steps}) > 2


@pytest.mark.parametrize("name", NAMES)
def test_recipe_runs_scaled_down(name, recipe_data, tmp_path):
    places = ["--data-path", recipe_data / "corpus", "--difficulty", recipe_data / "difficulty"]
    written = ["write", name, "--scale-down", "--save", tmp_path, *places]
    assert recipe.main([str(word) for word in written]) == 0
    words = (tmp_path / "recipe" / "command").read_text().splitlines()[1:]
    assert pretrain_gpt.main([*words, "--vocab-size", "400"]) == 0
    assert_kept_its_shape(tmp_path)


@pytest.mark.full
def test_launchers_run_the_same_training(recipe_data, tmp_path):
    name = "gpt_cl_ltd_300b"
    launch(name, recipe_data, tmp_path / "one", LAUNCHER="single")
    launch(name, recipe_data, tmp_path / "two", NUM_PROCESSES="2")
    settings = {"LAUNCHER": "deepspeed", "NUM_PROCESSES": "2", "ENGINE": "deepspeed"}
    launch(name, recipe_data, tmp_path / "deepspeed", **settings)
    for folder in ("one", "two", "deepspeed"):
        assert_kept_its_shape(tmp_path / folder)
    settings["LAUNCHER"] = "torchrun"
    launch("gpt_baseline_150b", recipe_data, tmp_path / "zero", **settings)
    assert_kept_its_shape(tmp_path / "zero")
