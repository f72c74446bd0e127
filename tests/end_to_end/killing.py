"""A signal to a whole run, however its processes were started."""

import os
import signal
from pathlib import Path


def kill_all(**variables):
    """Kills every process of a run, as `signal_all` finds them."""
    signal_all(signal.SIGKILL, **variables)


def signal_all(number, **variables):
    """Sends a signal to every process with these environment variables at one moment: launcher, ranks, workers.

    A launcher gives its ranks sessions of their own, so its process group does not hold them.
    """
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((process / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue
        if wanted <= environment:
            os.kill(int(process.name), number)
