"""Checkpoints: a folder a step that appears complete or not at all, and a pointer to the latest.

    <run>/global_step100/model.safetensors       weights by their plain names
    <run>/global_step100/optimizer.safetensors   optimizer tensors, `<weight>.<name of the state>`
    <run>/global_step100/average.safetensors     running average of the weights, where the run keeps one
    <run>/global_step100/state.json              counters, position in the data, settings
    <run>/global_step100/manifest.json           sizes and checksums of them
    <run>/latest                                 the text global_step100, replaced last
    <run>/.run.lock                              held by the process that saves there

Whole tensors, whatever engine, ZeRO stage or number of processes wrote them. Nothing is pickled.
Source: the folder and pointer names are DeepSpeed's.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from data_efficiency import files
from data_efficiency.engine.whole_tensor import WholeTensor
from data_efficiency.files import result_folder
from megatron.checkpoint.tensor_file import in_file_order, write_tensor_file

FORMAT = "checkpoint"
VERSION = 1
LATEST_FILE = "latest"
_PREFIX = "global_step"
_SET_ASIDE = ".damaged"
_LOCK_FILE = ".run.lock"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_AVERAGE = "average.safetensors"


@dataclass(frozen=True, kw_only=True)
class FoundCheckpoint:
    """What a search in a run's folder came to."""

    step: int | None
    """Of the checkpoint to continue from, every byte of it checked; None where the run has none."""
    problems: tuple[str, ...] = ()
    """What was wrong with the pointer and with checkpoints that come before the one found."""
    damaged: tuple[Path, ...] = ()
    """The folders of those checkpoints."""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where a run's checkpoint of a step lies, or would."""
    return run / f"{_PREFIX}{step}"


def held(run: Path) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Hold the folder of a run within the block, as `file_lock` does: one run saves there at a time."""
    return files.file_lock(run / _LOCK_FILE)


def save_checkpoint(
    run: Path,
    step: int,
    *,
    weights: Iterable[WholeTensor],
    optimizer_state: Iterable[WholeTensor],
    state: Mapping[str, Any],
    keep_last: int,
    average: Iterable[WholeTensor] = (),
) -> Path:
    """The folder of the new checkpoint, complete and on disk.

    What killed saves left behind is removed first. Memory holds one tensor at a time. The other
    processes of a run call `take_part`.

    Args:
        run: folder of the run; nobody else may be saving there.
        weights: by their plain names.
        optimizer_state: by `<weight>.<name of the state>`.
        average: of the weights, by their plain names, where the run keeps one.
        keep_last: this many checkpoints up to this step are kept, older ones removed; 0 keeps all.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    target = checkpoint_folder(run, step)
    for name in (f"{_PREFIX}*", LATEST_FILE):
        result_folder.remove_leftovers(run / name)
    if target.is_dir() and not (target / result_folder.MANIFEST_FILE).is_file():
        set_aside(target)
    try:
        with result_folder.new_folder(target, overwrite=True) as folder:
            entries = {
                _MODEL: write_tensor_file(folder / _MODEL, weights),
                _OPTIMIZER: write_tensor_file(folder / _OPTIMIZER, optimizer_state),
                _STATE: _write_json(folder / _STATE, state),
            }
            averages = list(average)
            if averages:
                entries[_AVERAGE] = write_tensor_file(folder / _AVERAGE, averages)
            result_folder.write_manifest(
                folder, {"format": FORMAT, "version": VERSION, "step": step, "files": entries}
            )
        files.write_file(run / LATEST_FILE, target.name + "\n")
    except OSError as error:
        raise OSError(
            f"checkpoint {target} could not be written ({error.strerror or error}); earlier "
            f"checkpoints are untouched: make room there, then continue with --load {run}"
        ) from error
    if keep_last:
        for old in [known for known in _steps_on_disk(run) if known <= step][:-keep_last]:
            result_folder.remove_folder(checkpoint_folder(run, old))
    return target


def take_part(weights: Iterable[WholeTensor], optimizer_state: Iterable[WholeTensor]) -> None:
    """Do the part in `save_checkpoint` of the processes that do not write."""
    for tensor in (*in_file_order(weights), *in_file_order(optimizer_state)):
        tensor.gather()


def has_checkpoints(run: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return (run / LATEST_FILE).is_file() or bool(_steps_on_disk(run))


def checkpoints_of(run: Path) -> list[Path]:
    """All checkpoints of a run, unchecked, by their steps."""
    return [checkpoint_folder(run, step) for step in _steps_on_disk(run)]


def latest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that `latest` points to, unchecked; None where the run has none.

    Raises:
        FileNotFoundError: if the pointer names a folder that is not there.
        ValueError: if it names no checkpoint.
    """
    pointer = run / LATEST_FILE
    if not pointer.is_file():
        return None
    step, problems = _step_named_by_latest(run)
    there = ", ".join(f"{_PREFIX}{step}" for step in _steps_on_disk(run)) or "none is there"
    if step is None:
        raise ValueError(f"{problems[0]}; write the name of one into it: {there}")
    target = checkpoint_folder(run, step)
    if not target.is_dir():
        raise FileNotFoundError(
            f"{pointer} names {target.name}, which is not there; write the name of another "
            f"checkpoint into it: {there}"
        )
    return target


def find_checkpoint(run: Path) -> FoundCheckpoint:
    """The checkpoint that `latest` names if it is whole, or else the nearest one before it.

    Where `latest` itself is torn or missing, the newest that is whole. Later checkpoints than the one
    named, which a run that was set back has, come last.

    Raises:
        ValueError: if there are checkpoints and none is whole, naming what is wrong with each.
        data_efficiency.files.result_folder.OtherVersionError: for one of another format version: no damage,
            so nothing older takes its place.
    """
    if not has_checkpoints(run):
        return FoundCheckpoint(step=None)
    named, problems = _step_named_by_latest(run)
    steps = {*_steps_on_disk(run), *(() if named is None else (named,))}
    damaged = []
    for step in sorted(steps, key=lambda step: (named is not None and step > named, -step)):
        checkpoint = checkpoint_folder(run, step)
        if not checkpoint.is_dir():
            problems.append(f"{run / LATEST_FILE} names {checkpoint.name}, which is not there")
            continue
        try:
            verify(checkpoint)
        except result_folder.OtherVersionError:
            raise
        except (OSError, ValueError) as error:
            problems.append(str(error))
            damaged.append(checkpoint)
        else:
            return FoundCheckpoint(step=step, problems=(*problems,), damaged=(*damaged,))
    raise ValueError(f"no checkpoint in {run} is whole: {'; '.join(problems)}")


def set_aside(checkpoint: Path) -> Path:
    """The new name of a damaged checkpoint, which is no longer one of the run's."""
    aside = checkpoint.with_name(checkpoint.name + _SET_ASIDE)
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def verify(checkpoint: Path) -> None:
    """Raise an error unless all files of a checkpoint are there and have the bytes that were written.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is truncated or was changed.
    """
    manifest = result_folder.read_manifest(checkpoint, FORMAT, VERSION, remedy="use another one")
    for name in (_MODEL, _OPTIMIZER, _STATE):
        if name not in manifest["files"]:
            raise ValueError(f"the manifest of {checkpoint} does not name {name}: it is damaged")
    result_folder.verify_checksums(checkpoint, manifest)


def read_state(checkpoint: Path, *, verified: bool = False) -> dict[str, Any]:
    """The JSON state of a checkpoint, after checking sizes and checksums of all its files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is truncated or was changed.
    """
    if not verified:
        verify(checkpoint)
    return files.read_json_object(checkpoint / _STATE)


def read_tensors(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights and the optimizer's state of a checkpoint, on the host, mapped from the files."""
    return read_weights(checkpoint), _read_tensor_file(checkpoint / _OPTIMIZER)


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by their plain names, on the host, mapped from the file."""
    return _read_tensor_file(checkpoint / _MODEL)


def read_average(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """The average of the weights by their plain names, on the host; None where the run kept none."""
    path = checkpoint / _AVERAGE
    return _read_tensor_file(path) if path.is_file() else None


def _read_tensor_file(path: Path) -> dict[str, torch.Tensor]:
    with files.reading(path):
        return load_file(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The file's entry in the manifest."""
    path.write_text(json.dumps(content, indent=1) + "\n")
    return result_folder.file_entry(path)


def _step_named_by_latest(run: Path) -> tuple[int | None, list[str]]:
    """The step, or None and what is wrong with the pointer."""
    pointer = run / LATEST_FILE
    try:
        text = pointer.read_bytes().decode(errors="replace").strip()
    except FileNotFoundError:
        return None, [f"{pointer} is missing"]
    number = text.removeprefix(_PREFIX)
    if text.startswith(_PREFIX) and number.isascii() and number.isdigit():
        return int(number), []
    return None, [f"{pointer} says {text[:40]!r}, which names no checkpoint"]


def _steps_on_disk(run: Path) -> list[int]:
    names = (path.name.removeprefix(_PREFIX) for path in run.glob(f"{_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdigit())
