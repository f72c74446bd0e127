"""What made a checkpoint: versions, source and machine, for whoever wonders later."""

import functools
import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = (
    *("data_efficiency", "megatron", "examples_deepspeed"),
    *("pretrain_gpt.py", "pretrain_bert.py", "tools/finetune_bert.py"),
)
_PACKAGES = ("data-efficiency", "torch", "numpy", "safetensors", "tokenizers")


def provenance(*, engine: str, num_processes: int, device: torch.device) -> dict[str, Any]:
    """Versions of the program and what it rests on, the commit it stands at, and how it runs."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    packages = (*_PACKAGES, "deepspeed") if engine == "deepspeed" else _PACKAGES
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        "git_commit": git_commit(_ROOT),
        "code": code_checksum(),
        "engine": engine,
        "num_processes": num_processes,
        "device": device.type,
        "device_name": name,
        "num_threads": torch.get_num_threads(),
    }


@functools.cache
def code_checksum() -> str:
    """Over the source files that a run is made by: another value after any edit, committed or not."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()[:16]


@functools.cache
def _processor() -> str:
    """The processor's name; only its architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
