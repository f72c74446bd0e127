"""What made a checkpoint: versions, source and machine, for whoever wonders later."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("data-efficiency", "torch", "numpy", "safetensors", "tokenizers")


def provenance(*, engine: str, num_processes: int, device: str) -> dict[str, Any]:
    """Versions of the program and what it rests on, the commit it stands at, and how it runs."""
    packages = (*_PACKAGES, "deepspeed") if engine == "deepspeed" else _PACKAGES
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        "git_commit": git_commit(Path(__file__).resolve().parents[2]),
        "engine": engine,
        "num_processes": num_processes,
        "device": device,
    }


def git_commit(folder: Path) -> str | None:
    """The commit a working tree stands at, `-dirty` behind it if files were changed; None without git.

    A folder inside another project's working tree has none.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    """A package's version; None where it runs without being installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
