"""Shell scripts as a user starts them, with nothing of the tests' environment but what they need."""

import os
import subprocess
import sys


def start(script, *arguments, cwd=None, **settings):
    """The ended script, with its output as text; settings are environment variables."""
    keep = ("PATH", "HOME", "PYTHONPATH")
    environment = {key: os.environ[key] for key in keep if key in os.environ}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(
        ["bash", str(script), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
