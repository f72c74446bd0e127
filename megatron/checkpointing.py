"""Checkpoints: a folder a step that appears whole or not at all, and a pointer to the latest.

    <run>/global_step100/model.safetensors       weights by their plain names
    <run>/global_step100/optimizer.safetensors   optimizer tensors, `<weight>.<name of the state>`
    <run>/global_step100/state.json              counters, the data's place, settings
    <run>/global_step100/manifest.json           sizes and checksums of the three
    <run>/latest                                 the text global_step100, replaced last

Whole tensors, whatever engine, ZeRO stage or number of processes wrote them. Nothing is pickled.
Source: the folder and pointer names are DeepSpeed's.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from data_efficiency import result_folder

FORMAT = "checkpoint"
VERSION = 1
LATEST_FILE = "latest"
_PREFIX = "global_step"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    run: Path,
    step: int,
    *,
    weights: Mapping[str, torch.Tensor],
    optimizer_state: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep_last: int,
) -> Path:
    """The folder of the new checkpoint, complete and on disk.

    Args:
        run: folder of the run.
        step: finished steps.
        weights: by their plain names.
        optimizer_state: by `<weight>.<name of the state>`.
        state: plain JSON data.
        keep_last: older checkpoints than this many are removed; 0 keeps all.
    """
    target = run / f"{_PREFIX}{step}"
    with result_folder.new_folder(target, overwrite=True) as folder:
        save_file(_contiguous(weights), folder / _MODEL)
        save_file(_contiguous(optimizer_state), folder / _OPTIMIZER)
        (folder / _STATE).write_text(json.dumps(state, indent=1) + "\n")
        files = {
            path.name: {
                "num_bytes": path.stat().st_size,
                "sha256": result_folder.sha256_of_file(path),
            }
            for path in sorted(folder.iterdir())
        }
        result_folder.write_manifest(
            folder, {"format": FORMAT, "version": VERSION, "step": step, "files": files}
        )
    _point_to(run, target.name)
    if keep_last:
        for old in _steps_on_disk(run)[:-keep_last]:
            if old != step:
                shutil.rmtree(run / f"{_PREFIX}{old}")
    return target


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that `latest` points to; None where the run has none.

    Raises:
        FileNotFoundError: if the pointer names a folder that is not there.
    """
    pointer = run / LATEST_FILE
    if not pointer.is_file():
        return None
    target = run / pointer.read_text().strip()
    if not target.is_dir():
        raise FileNotFoundError(
            f"{pointer} names {target.name}, which is not there; write the name of another "
            f"checkpoint into it: {', '.join(f'{_PREFIX}{step}' for step in _steps_on_disk(run))}"
        )
    return target


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint, after checking sizes and checksums of all its files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is truncated or was changed.
    """
    remedy = "continue from another checkpoint by writing its name into the file `latest`"
    manifest = result_folder.read_manifest(checkpoint, FORMAT, VERSION, remedy=remedy)
    result_folder.verify_checksums(checkpoint, manifest)
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text())
    return state


def read_tensors(
    checkpoint: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights and the optimizer's state of a checkpoint, on the host."""
    return read_weights(checkpoint), load_file(checkpoint / _OPTIMIZER)


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by their plain names, on the host."""
    return load_file(checkpoint / _MODEL)


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _point_to(run: Path, name: str) -> None:
    temporary = run / f".{LATEST_FILE}.partial"
    temporary.write_text(name + "\n")
    result_folder.sync_to_disk(temporary)
    os.replace(temporary, run / LATEST_FILE)
    result_folder.sync_to_disk(run)


def _steps_on_disk(run: Path) -> list[int]:
    names = (path.name.removeprefix(_PREFIX) for path in run.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdigit())
