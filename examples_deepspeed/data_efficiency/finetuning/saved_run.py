"""A run on disk between two steps: whole tensors by plain names, and everything else as JSON.

It does not depend on the engine or the number of processes. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file, save_file

from data_efficiency import result_folder

FORMAT, VERSION = "finetuning checkpoint", 2


def save_run(folder: Path, engine: Any, state: Mapping[str, Any]) -> None:
    """Nothing; `folder` holds the engine and the run's own state. Every process must call it."""
    weights, optimizer = engine.full_weights(), engine.full_optimizer_state()
    progress = engine.progress_state()
    if engine.global_rank == 0:
        with result_folder.new_folder(folder, overwrite=True) as partial:
            save_file(own_memory(weights), partial / "model.safetensors")
            save_file(own_memory(optimizer), partial / "optimizer.safetensors")
            content = {"run": state, "engine": progress}
            (partial / "state.json").write_text(json.dumps(content))
            files = {
                path.name: {
                    "num_bytes": path.stat().st_size,
                    "sha256": result_folder.sha256_of_file(path),
                }
                for path in sorted(partial.iterdir())
            }
            manifest = {"format": FORMAT, "version": VERSION, "files": files}
            result_folder.write_manifest(partial, manifest)
    wait_for_all()


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's own state and the engine's progress, once every file is found undamaged.

    Raises:
        ValueError: if a file is damaged.
    """
    remedy = "remove the folder to start the run anew"
    manifest = result_folder.read_manifest(folder, FORMAT, VERSION, remedy=remedy)
    result_folder.verify_checksums(folder, manifest)
    content = json.loads((folder / "state.json").read_text())
    return content["run"], content["engine"]


def load_run(folder: Path, engine: Any, progress: Mapping[str, Any]) -> None:
    """Nothing; the engine goes on where it was saved.

    Raises:
        ValueError: if the weights are of another model.
    """
    engine.load_full_weights(load_file(folder / "model.safetensors"))
    engine.load_full_optimizer_state(load_file(folder / "optimizer.safetensors"))
    engine.load_progress_state(progress)


def own_memory(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, tied ones copied: safetensors refuses two names for one piece of memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return result


def wait_for_all() -> None:
    """Nothing, once every process is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
