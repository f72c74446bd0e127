"""Every recipe, scaled down, really run: all in this process, some again from the file that they leave,
some by launch.sh in two processes.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import pretrain_bert
import pretrain_gpt
from data_efficiency import DifficultyIndex
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.recipes import SHIPPED
from tests.end_to_end import bert_runs
from tests.end_to_end.tiny_runs import ROOT
from tests.processes import run_python

ENTRY_SCRIPTS = {"gpt": pretrain_gpt, "bert": pretrain_bert}
SEQ_LENGTH = 64
SPLIT = "949,50,1"
IN_EVERY_PUSH = ("gpt_cl_voc_reshape_300b", "bert_cl_ltd_524b")
REPLAYED = [name for name in SHIPPED.recipes if "_cl_" in name][:9] + [
    *IN_EVERY_PUSH,
    "gpt_ltd_150b",
    "gpt_cl_window_107b",
    "gpt_cl_stages_627b",
    "gpt_pieces_29b",
]
NAMES = [
    pytest.param(name, marks=() if name in IN_EVERY_PUSH else pytest.mark.full)
    for name in SHIPPED.recipes
]


@pytest.fixture(scope="session")
def gpt_data(tmp_path_factory):
    """A corpus and its index for the scaled-down sequence length and the recipes' split."""
    folder = tmp_path_factory.mktemp("recipes")
    generator = np.random.default_rng(3)
    lengths = generator.integers(20, 400, 400).astype(np.int32)
    tokens = (generator.zipf(1.4, lengths.sum()) % 400).astype(np.uint16)
    with IndexedDatasetWriter(folder / "corpus", np.dtype("uint16")) as writer:
        writer.add_documents(tokens, lengths)
        writer.finish({"vocab_size": 400})
    run_python(
        *("tools/analyze_data.py", "run", "--data-path", folder / "corpus"),
        *("--split", SPLIT, "--seq-length", SEQ_LENGTH, "--metric", "vocab_rarity"),
        *("--save", folder / "difficulty", "--num-processes", 1),
    )
    rarity = DifficultyIndex.open(folder / "difficulty" / "vocab_rarity")
    DifficultyIndex.write(
        folder / "difficulty" / "quality",
        generator.random(rarity.num_samples),
        metric="quality",
        dataset_identity=rarity.dataset_identity,
    )
    return folder / "corpus"


@pytest.fixture(scope="session")
def bert_data(tmp_path_factory):
    """The same for BERT, with an index for each of its metrics."""
    folder = bert_runs.write_workspace(
        tmp_path_factory.mktemp("recipes"),
        num_documents=400,
        sequence_length=SEQ_LENGTH,
        split=SPLIT,
    )
    return folder / "sentences"


@pytest.fixture
def data_of(request):
    """Recipe -> its corpus; the indexes lie beside it. What no test asks for is not made."""
    return lambda name: request.getfixturevalue(f"{name.split('_')[0]}_data")


def launch(name, data, save, *flags, **settings):
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        **settings,
    }
    environment.pop("SLURM_JOB_ID", None)
    words = [f"pretrain_{name.split('_')[0]}.py", *scaled_down(name, data, save), *flags]
    done = subprocess.run(
        ["bash", str(ROOT / "examples_deepspeed" / "launch.sh"), *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def scaled_down(name, data, save):
    """The flags of a small run."""
    places = ["--data-path", data, "--difficulty", data.parent / "difficulty", "--save", save]
    return ["--config", name, "--scale-down", *places, "--vocab-size", 400]


def assert_kept_its_shape(name, save):
    lines = [json.loads(line) for line in (save / "log.jsonl").read_text().splitlines()]
    assert "--train-tokens" in lines[-1]["reason"]
    start = next(line for line in lines if line["kind"] == "start")
    steps = [line for line in lines if line["kind"] == "train"]
    assert len(steps) >= 19
    first, last = (np.mean([step["loss"] for step in part]) for part in (steps[:5], steps[-5:]))
    assert last < first
    section = start["data_efficiency"]
    metrics = section["data_sampling"]["curriculum_learning"].get("curriculum_metrics", {})
    dropping = section["data_routing"]["random_ltd"]["enabled"]
    # What the recipe is named after is on, and takes three values at least.
    assert bool(metrics) == ("_cl_" in name)
    assert dropping == ("ltd" in name)
    # Stages have one value each.
    at_least = 2 if "stage_starts" in start else 3
    for metric in metrics:
        assert len({step["difficulties"][metric] for step in steps}) >= at_least
    if any(entry["clustering_type"] == "schedule_based" for entry in metrics.values()):
        assert steps[0]["pool_size"] < steps[-1]["pool_size"] == start["train_samples_in_dataset"]
    if {"seqlen_truncate", "seqlen_reshape"} & set(metrics):
        lengths = [step["sequence_length"] for step in steps]
        assert lengths[0] < lengths[-1] == SEQ_LENGTH
        assert len(set(lengths)) >= at_least
    if "pieces" in start:
        assert {step["sequence_length"] for step in steps} == {2, 4, 8, 16, 32, 64}
    if "attention_window" in metrics:
        spent = np.diff([0, *(step["flops"] for step in steps)])
        assert spent[0] < spent[-1]
        assert len(set(spent.tolist())) > 2
    if "order" in section["data_sampling"]["curriculum_learning"]:
        ranks = [step["difficulties"]["quality"] for step in steps]
        assert ranks == sorted(ranks)
        assert (ranks[0], ranks[-1]) == pytest.approx((0, 100), abs=5)
    if any(entry.get("sequence_length") == "trim_padding" for entry in metrics.values()):
        assert min(step["sequence_length"] for step in steps) < SEQ_LENGTH
    if dropping:
        kept = [step["kept_length"] for step in steps]
        assert kept[0] < kept[-1]
        assert len(set(kept)) > 2


def start(name, *flags):
    return ENTRY_SCRIPTS[name.split("_")[0]].main(list(map(str, flags)))


def losses(save):
    lines = [json.loads(line) for line in (save / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] in ("train", "valid")]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_runs_scaled_down(name, data_of, tmp_path):
    data, first, second = data_of(name), tmp_path / "a", tmp_path / "b"
    assert start(name, *scaled_down(name, data, first)) == 0
    assert_kept_its_shape(name, first)
    if name not in REPLAYED:
        return
    assert start(name, "--config", first / "run.toml", "--save", second) == 0
    assert losses(second) == losses(first)
    last = (first / "latest").read_text().strip()
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (first / last / file).read_bytes() == (second / last / file).read_bytes()


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["gpt_cl_ltd_300b", "bert_cl_ltd_1049b"])
def test_launchers_run_the_same_training(name, data_of, tmp_path):
    data = data_of(name)
    launch(name, data, tmp_path / "one", LAUNCHER="single")
    launch(name, data, tmp_path / "two", NUM_PROCESSES="2")
    settings = {"LAUNCHER": "deepspeed", "NUM_PROCESSES": "2"}
    launch(name, data, tmp_path / "deepspeed", "--deepspeed", **settings)
    for folder in ("one", "two", "deepspeed"):
        assert_kept_its_shape(name, tmp_path / folder)


@pytest.mark.full
def test_torchrun_starts_deepspeed(gpt_data, tmp_path):
    settings = {"LAUNCHER": "torchrun", "NUM_PROCESSES": "2"}
    launch("gpt_baseline_150b", gpt_data, tmp_path, "--deepspeed", **settings)
    assert_kept_its_shape("gpt_baseline_150b", tmp_path)
