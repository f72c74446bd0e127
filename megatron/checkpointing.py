"""Checkpoints: a folder a step that appears whole or not at all, and a pointer to the latest.

    <run>/global_step100/model.safetensors       weights by their plain names
    <run>/global_step100/optimizer.safetensors   optimizer tensors, `<weight>.<name of the state>`
    <run>/global_step100/state.json              counters, the data's place, settings
    <run>/global_step100/manifest.json           sizes and checksums of the three
    <run>/latest                                 the text global_step100, replaced last

Nothing is pickled. Source: the folder and pointer names are DeepSpeed's.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from data_efficiency import result_folder, save_without_random_ltd

FORMAT = "checkpoint"
VERSION = 1
LATEST_FILE = "latest"
_PREFIX = "global_step"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    run: Path,
    step: int,
    *,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep_last: int,
) -> Path:
    """The folder of the new checkpoint, complete and on disk.

    Args:
        run: folder of the run.
        step: finished steps.
        module: its weights are saved.
        optimizer: its state is saved.
        state: plain JSON data.
        keep_last: older checkpoints than this many are removed; 0 keeps all.
    """
    target = run / f"{_PREFIX}{step}"
    with result_folder.new_folder(target, overwrite=True) as folder:
        save_file(_contiguous(save_without_random_ltd(module)), folder / _MODEL)
        save_file(_contiguous(_optimizer_tensors(module, optimizer)), folder / _OPTIMIZER)
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


def load_weights(
    checkpoint: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Nothing; the module, and the optimizer if given, hold the checkpoint's tensors.

    Raises:
        ValueError: if names or shapes are not those of the module.
    """
    tensors = load_file(checkpoint / _MODEL)
    own = module.state_dict()
    wrong = sorted(set(tensors) ^ set(own)) or [
        name for name, tensor in own.items() if tensors[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"{checkpoint} is of another model shape: {wrong[0]} does not fit")
    module.load_state_dict(tensors)
    if optimizer is not None:
        _load_optimizer(load_file(checkpoint / _OPTIMIZER), module, optimizer)


def _optimizer_tensors(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{names[id(parameter)]}.{key}": value
        for parameter, states in optimizer.state.items()
        for key, value in states.items()
    }


def _load_optimizer(
    tensors: Mapping[str, torch.Tensor],
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    parameters = dict(module.named_parameters())
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        parameter = parameters[name]
        # The step count stays where the optimizer keeps it, on the host unless it is fused there.
        device = parameter.device if tensor.ndim else torch.device("cpu")
        if optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"):
            device = parameter.device
        optimizer.state[parameter][key] = tensor.to(device)


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
