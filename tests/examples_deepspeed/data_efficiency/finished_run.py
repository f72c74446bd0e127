"""What two runs must have in common: everything but the time they took."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
_TIMES = ("training_seconds", "all_seconds")


class Stopped(Exception):
    """In place of a kill."""


def results_of(folder):
    """The results of the one run under a folder, without times."""
    (path,) = Path(folder).rglob("results.json")
    results = json.loads(path.read_text())
    for record in (results, *results["history"]):
        for name in _TIMES:
            del record[name]
    return results


def stop_after(monkeypatch, owner, num_batches):
    """Lets the data set's `get_batch` raise `Stopped` after so many batches, until it is undone."""
    original, calls = owner.get_batch, []

    def get_batch(self, samples, visits):
        calls.append(1)
        if len(calls) > num_batches:
            raise Stopped
        return original(self, samples, visits)

    monkeypatch.setattr(owner, "get_batch", get_batch)


def command(module, flags, launch=()):
    return [sys.executable, *launch, "-m", module, *map(str, flags)]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_processes(module, flags):
    """Runs a module in two processes; its output if it fails."""
    done = subprocess.run(
        command(module, flags, LAUNCH),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def kill_at_first_save(module, flags, folder):
    """Starts a run and kills it, without warning, once it has saved."""
    process = subprocess.Popen(
        command(module, flags),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 200
    while process.poll() is None and not list(Path(folder).rglob("last/manifest.json")):
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(Path(folder).rglob("results.json")), "the run was over before it was killed"
