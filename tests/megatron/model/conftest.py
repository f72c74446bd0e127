"""Two processes that share layers and rows of our models, started once for all tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.processes import ROOT

WORKER = Path(__file__).with_name("tensor_parallel_worker.py")


@pytest.fixture(scope="session")
def few(tmp_path_factory, worker_id):
    """What each of the two processes found in the cases of every push."""
    return _found(tmp_path_factory, worker_id, "few")


@pytest.fixture(scope="session")
def others(tmp_path_factory, worker_id):
    """What they found in the others."""
    return _found(tmp_path_factory, worker_id, "others")


def _found(tmp_path_factory, worker_id, which):
    """Of several test processes one starts them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / f"tensor_parallel_{which}"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            partial.mkdir()
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
                    *("--standalone", str(WORKER), str(partial), which),
                ],
                cwd=ROOT,
                env={"PATH": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            partial.rename(folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
