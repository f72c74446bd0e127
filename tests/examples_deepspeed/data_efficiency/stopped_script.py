"""A script that is stopped while a program it started runs."""

import os
import signal
import subprocess
import time
from pathlib import Path


def check_a_stop_ends_what_runs(script, folder, *flags, **settings):
    """Asserts that SIGTERM ends the script and the program that runs instead of Python.

    Args:
        script: path of the script.
        folder: where it runs.
        flags: its arguments.
        settings: its variables.
    """
    stand_in, number = folder / "python", folder / "number"
    stand_in.write_text(
        f"#!/bin/sh\necho $$ >'{number}.partial'\nmv '{number}.partial' '{number}'\nexec sleep 60\n"
    )
    stand_in.chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(script), *flags],
        cwd=folder,
        env=os.environ | {"PYTHON": str(stand_in)} | settings,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not number.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "goes on from here" in said
    program = Path(f"/proc/{number.read_text().strip()}")
    for _ in range(100):
        if not program.exists():
            break
        time.sleep(0.1)
    assert not program.exists()
