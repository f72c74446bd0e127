"""Checkpoints on disk: a folder a step that appears complete or not at all, and a pointer to the latest.

    <run>/global_step100/model.safetensors       weights by their plain names
    <run>/global_step100/optimizer.safetensors   optimizer tensors, `<weight>.<name of the state>`
    <run>/global_step100/average.safetensors     running average of the weights, where the run keeps one
    <run>/global_step100/state.json              counters, position in the data, settings
    <run>/global_step100/manifest.json           sizes and checksums of them
    <run>/latest                                 the text global_step100, replaced last
    <run>/.run.lock                              held by the process that saves there

Where several processes write large tensors, model-00001-of-00004.safetensors and so on, and
model.safetensors.index.json, which says where each tensor is; the optimizer's likewise. Whole tensors, whatever engine, ZeRO stage or number of processes wrote them. Nothing is pickled.
Source: the folder and pointer names are DeepSpeed's.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from data_efficiency import files
from data_efficiency.files import result_folder
from megatron.checkpoint.shares import file_names, index_name

FORMAT = "checkpoint"
VERSION, SHARED_VERSION = 1, 2
"""Of a checkpoint with one file of a kind, and with several."""
LATEST_FILE = "latest"
PREFIX = "global_step"
MODEL, OPTIMIZER = "model", "optimizer"
"""Kinds of tensors: the beginning of their files' names."""
STATE_FILE, AVERAGE_FILE = "state.json", "average.safetensors"
_SET_ASIDE = ".damaged"
_LOCK_FILE = ".run.lock"


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
    return run / f"{PREFIX}{step}"


def held(run: Path) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Hold the folder of a run within the block, as `file_lock` does: one run saves there at a time."""
    return files.file_lock(run / _LOCK_FILE)


def has_checkpoints(run: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return (run / LATEST_FILE).is_file() or bool(steps_on_disk(run))


def checkpoints_of(run: Path) -> list[Path]:
    """All checkpoints of a run, unchecked, by their steps."""
    return [checkpoint_folder(run, step) for step in steps_on_disk(run)]


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
    there = ", ".join(f"{PREFIX}{step}" for step in steps_on_disk(run)) or "none is there"
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
    named, which a run that was set back has, come last. A run that saves meanwhile may remove what is being looked
    at: then the search begins again.

    Raises:
        ValueError: if there are checkpoints and none is whole, naming what is wrong with each.
        data_efficiency.files.result_folder.OtherVersionError: for one of another format version: no damage,
            so nothing older takes its place.
    """
    while True:
        # It is replaced before anything is removed.
        named = _step_named_by_latest(run)
        found = _checked(run, *named)
        if not found.problems or _step_named_by_latest(run) == named:
            break
    if found.step is None and found.problems:
        raise ValueError(f"no checkpoint in {run} is whole: {'; '.join(found.problems)}")
    return found


def _checked(run: Path, named: int | None, why_none: Sequence[str]) -> FoundCheckpoint:
    """As `find_checkpoint`, with the step that `latest` names, if it does; problems without a step where none is whole."""
    if not has_checkpoints(run):
        return FoundCheckpoint(step=None)
    problems, damaged = [*why_none], []
    steps = {*steps_on_disk(run), *(() if named is None else (named,))}
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
    return FoundCheckpoint(step=None, problems=(*problems,), damaged=(*damaged,))


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
    manifest = manifest_of(checkpoint)
    names = [STATE_FILE, *(name for kind in (MODEL, OPTIMIZER) for name in _needed(manifest, kind))]
    _refuse_missing(checkpoint, names, manifest)
    result_folder.verify_checksums(checkpoint, manifest)
    for kind in (MODEL, OPTIMIZER):
        _refuse_missing(checkpoint, _tensor_files(checkpoint, kind), manifest)


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's manifest, after checking its version and the sizes of its files.

    Raises:
        FileNotFoundError, ValueError, result_folder.OtherVersionError: as `result_folder.read_manifest`.
    """
    return result_folder.read_manifest(
        checkpoint, FORMAT, SHARED_VERSION, older=(VERSION,), remedy="use another one"
    )


def _needed(manifest: Mapping[str, Any], kind: str) -> list[str]:
    """The file that a kind of tensors begins at: its index, or the one that holds them."""
    return [index_name(kind)] if index_name(kind) in manifest["files"] else file_names(kind, 1)


def _refuse_missing(checkpoint: Path, names: Iterable[str], manifest: Mapping[str, Any]) -> None:
    for name in names:
        if name not in manifest["files"]:
            raise ValueError(f"the manifest of {checkpoint} does not name {name}: it is damaged")


def read_state(checkpoint: Path, *, verified: bool = False) -> dict[str, Any]:
    """The JSON state of a checkpoint, after checking sizes and checksums of all its files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is truncated or was changed.
    """
    if not verified:
        verify(checkpoint)
    return files.read_json_object(checkpoint / STATE_FILE)


def read_tensors(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights and the optimizer's state of a checkpoint, on the host, mapped from the files.

    Mapped is what costs nothing before it is read: a process that keeps parts reads its own.
    """
    return read_weights(checkpoint), _read_kind(checkpoint, OPTIMIZER)


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by their plain names, on the host, mapped from the files."""
    return _read_kind(checkpoint, MODEL)


def read_average(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """The average of the weights by their plain names, on the host; None where the run kept none."""
    path = checkpoint / AVERAGE_FILE
    return _read_tensor_file(path) if path.is_file() else None


def _read_kind(checkpoint: Path, kind: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name in _tensor_files(checkpoint, kind):
        tensors |= _read_tensor_file(checkpoint / name)
    return tensors


def _tensor_files(checkpoint: Path, kind: str) -> list[str]:
    """The names of the files that hold a kind of tensors."""
    index = checkpoint / index_name(kind)
    if not index.is_file():
        return file_names(kind, 1)
    return sorted(set(files.read_json_object(index)["weight_map"].values()))


def _read_tensor_file(path: Path) -> dict[str, torch.Tensor]:
    with files.reading(path):
        return load_file(path)


def _step_named_by_latest(run: Path) -> tuple[int | None, list[str]]:
    """The step, or None and what is wrong with the pointer."""
    pointer = run / LATEST_FILE
    try:
        text = pointer.read_bytes().decode(errors="replace").strip()
    except FileNotFoundError:
        return None, [f"{pointer} is missing"]
    number = text.removeprefix(PREFIX)
    if text.startswith(PREFIX) and number.isascii() and number.isdigit():
        return int(number), []
    return None, [f"{pointer} says {text[:40]!r}, which names no checkpoint"]


def steps_on_disk(run: Path) -> list[int]:
    """The steps of a run's checkpoints, unchecked, ascending."""
    names = (path.name.removeprefix(PREFIX) for path in run.glob(f"{PREFIX}*"))
    return sorted(int(name) for name in names if name.isdigit())
