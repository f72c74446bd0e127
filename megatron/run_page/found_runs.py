"""Which runs lie in and below folders, and which of them are seeds of one arm.

A folder with a log is a run. A study keeps its runs as ARM/seed3 or ARM/seed3_budget0.5: what is alike but for
the seed is one arm. Names are paths below the folder that all that was given lies in.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron.reporting.run_log import LOG_FILE

DEEPEST = 6
"""Folders below a given one that are looked into."""
_NOT_RUNS = re.compile(r"\..*|global_step\d+|replaced|tensorboard|tokens|corpus|difficulty|model")
_SEED = re.compile(r"seed[_-]?(\d+)(?:_budget([\d.e+-]+))?")
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run's folder and what to call it."""

    folder: Path
    name: str
    """Its path, no other run's."""
    arm: str
    """The same without the seed."""
    seed: int | None = None
    """None where the path does not tell one."""


def find_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """The runs in and below folders: a baseline's first, then by name, numbers in them by their size.

    Links to folders are not followed, other than those that are given.

    Raises:
        FileNotFoundError: if a folder is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder: give a run's, or one that runs lie in")
    given = [Path(os.path.abspath(folder)) for folder in folders]
    found = {run for folder in given for run in _folders_of_runs(folder, DEEPEST)}
    parents = [folder.parent if folder in found else folder for folder in given]
    top = Path(os.path.commonpath(parents))
    named = [_named(folder, folder.relative_to(top).parts) for folder in found]
    return sorted(named, key=_place)


def _folders_of_runs(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / LOG_FILE).is_file():
        yield folder
        return
    if depth == 0:
        return
    try:
        below = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return  # not ours to read, or gone meanwhile
    for entry in below:
        if not _NOT_RUNS.fullmatch(entry.name):
            yield from _folders_of_runs(folder / entry.name, depth - 1)


def _named(folder: Path, parts: Sequence[str]) -> FoundRun:
    name = "/".join(parts)
    found = _SEED.fullmatch(parts[-1])
    if found is None or len(parts) == 1:
        return FoundRun(folder=folder, name=name, arm=name)
    arm = "/".join(parts[:-1])
    if found[2]:
        arm += f" x{found[2]}"
    return FoundRun(folder=folder, name=name, arm=arm, seed=int(found[1]))


def _place(run: FoundRun) -> tuple[bool, list[tuple[int, int, str]]]:
    """By which runs are ordered: "seed10" after "seed9"."""
    words = re.split(r"(\d+)", run.name)
    numbered = [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]
    return run.arm.rpartition("/")[2].split(" x")[0] != BASELINE, numbered
