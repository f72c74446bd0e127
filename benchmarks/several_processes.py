"""What several processes measure together, each time in processes of their own, since peaks of memory stay."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def measured(module: str, words: Sequence[str], *, num_processes: int) -> Any:
    """The JSON that process 0 of a worker printed last.

    Args:
        module: of the worker, a command.
        words: its command line.
        num_processes: on this machine; more than one are started by torchrun.

    Raises:
        RuntimeError: with the worker's errors, if it failed.
    """
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}", "--standalone"]
    command = [sys.executable, *(launcher if num_processes > 1 else []), "-m", module, *words]
    settings = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(words)} failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_bytes() -> int:
    """Highest resident memory of this process, of Linux's account."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: this benchmark needs Linux")
