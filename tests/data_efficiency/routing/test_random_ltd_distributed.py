"""Two processes train as one does: DDP, ZeRO 0 to 3, and recomputation from outside the layers."""

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
WORKER = Path(__file__).with_name("zero_worker.py")
CASES = ("ddp", "zero0", "zero1", "zero2", "zero3", "zero1_bf16")
RECOMPUTED = ("recomputed_zero1", "recomputed_zero3", "recomputed_zero1_torch")

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    folder = tmp_path_factory.mktemp("zero")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [(folder / f"log.{rank}").open("w") for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)],
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "DS_ACCELERATOR": "cpu",
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=logs[rank],
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for log in logs:
            log.close()
    assert codes == [0, 0], (folder / "log.0").read_text()[-3000:]
    return folder


def parameters(results, name, rank=0):
    return torch.load(results / f"{name}.{rank}.pt", weights_only=True)


def subsets(results, name):
    """(step, row of the global batch) -> kept positions in each dropping layer."""
    found = {}
    for rank in range(2):
        for step, first_row, drawn in json.loads((results / f"{name}.{rank}.json").read_text()):
            for row in range(len(drawn[0])):
                found[step, first_row + row] = [layer[row] for layer in drawn]
    return found


@pytest.mark.parametrize("name", CASES + RECOMPUTED)
def test_two_processes_train_as_one(results, name):
    alone = "recomputed_alone" if name in RECOMPUTED else "alone"
    expected, found = parameters(results, alone), parameters(results, name)
    assert torch.equal(found, parameters(results, name, rank=1))
    tolerance = 0.01 if name.endswith("bf16") else 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    other = parameters(results, "alone" if name in RECOMPUTED else "recomputed_alone")
    assert (other - found).abs().max() > 0.02
    drawn = subsets(results, name)
    assert len(drawn) == 3 * 8
    assert drawn == subsets(results, alone)
    assert {len(layer) for row in drawn.values() for layer in row} == {6}
