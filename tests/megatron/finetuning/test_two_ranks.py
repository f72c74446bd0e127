"""Finetuning in processes of its own: two are as one, and a killed one goes on to the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron.reporting import read_log
from tests.megatron.finetuning.two_ranks import prepare

ROOT = Path(__file__).resolve().parents[3]
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_ranks")
    prepare(folder)
    run(folder, "one", "torch")
    return folder


def run(folder, name, engine, *, launch=(), interval=1000, kill_at=0):
    arguments = [folder, name, engine, interval, kill_at]
    return subprocess.run(
        [
            sys.executable,
            *launch,
            "-m",
            "tests.megatron.finetuning.two_ranks",
            *map(str, arguments),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=not kill_at,
        timeout=240,
    )


def result(folder, name, rank=0):
    return json.loads((folder / f"{name}.{rank}.json").read_text())


@pytest.mark.parametrize(
    "engine",
    ["torch", *(pytest.param(name, marks=pytest.mark.full) for name in ("zero2", "fsdp3"))],
)
def test_two_processes_are_as_one(folder, engine):
    """With dropped tokens, and a last batch of the epoch whose fill-up makes a whole process idle."""
    run(folder, engine, engine, launch=TWO)
    one, first, second = result(folder, "one"), result(folder, engine), result(folder, engine, 1)
    assert first == second
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert first["scores"] == one["scores"]
    assert first["counters"] == one["counters"]
    assert one["counters"]["loss_tokens"] == 42


@pytest.mark.parametrize(
    ("launch", "engine"),
    [
        ((), "torch"),
        *(pytest.param(TWO, kind, marks=pytest.mark.full) for kind in ("torch", "fsdp3")),
    ],
)
def test_killed_and_resumed_ends_with_the_same_bits(folder, launch, engine):
    name = f"killed{len(launch)}_{engine}"
    whole = f"two_{engine}" if launch else "one"
    if launch:
        run(folder, whole, engine, launch=launch)
    killed = run(folder, name, engine, launch=launch, interval=2, kill_at=5)
    assert killed.returncode != 0
    run(folder, name, engine, launch=launch, interval=2)
    assert result(folder, name)["losses"] == result(folder, whole)["losses"]
    assert result(folder, name)["scores"] == result(folder, whole)["scores"]
    expected, found = (load_file(folder / f"{key}.weights") for key in (whole, name))
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


def test_the_command_on_two_processes_of_deepspeed(folder):
    zero = {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
    (folder / "zero.json").write_text(json.dumps(zero))
    flags = ["--pretrained", "run", "--data", "data", "--task", "sst2", "--save", "result"]
    flags += ["--lr", "1e-3", "--epochs", "1", "--max-length", "32", "--save-interval", "1"]
    flags += ["--deepspeed", "--deepspeed_config", "zero.json"]
    done = subprocess.run(
        [sys.executable, *TWO, str(ROOT / "tools/finetune_bert.py"), *flags],
        cwd=folder,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = read_log(folder / "result")
    assert (log.start["num_processes"], log.end["step"]) == (2, 1)
    assert log.start["environment"]["engine"] == "deepspeed"
