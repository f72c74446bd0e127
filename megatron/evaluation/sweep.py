"""Many evaluations: each checkpoint of a folder on each row of tasks, zero-shot and with examples."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron.evaluation.published_tasks import ROWS

_SEED = re.compile(r"seed_?\d+")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one row of tasks."""

    checkpoint: Path
    name: str
    """Of the checkpoint, from the folder that was searched."""
    tasks: Sequence[str]
    num_fewshot: int
    folder: Path
    """Of the results of this checkpoint."""

    @property
    def output(self) -> Path:
        """JSON file of the results."""
        return self.folder / f"{self.num_fewshot}shot" / f"{'+'.join(self.tasks)}.json"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}, {self.num_fewshot} examples: {','.join(self.tasks)}"

    @property
    def model(self) -> str:
        """Of which this is a training: folders of seeds are trainings of one model."""
        path = Path(self.name)
        is_seed = len(path.parts) > 1 and _SEED.fullmatch(path.name)
        return path.parent.name if is_seed else self.name


def find_checkpoints(folder: Path, *, latest: bool = False) -> dict[str, Path]:
    """Name -> checkpoint or run: one checkpoint, each that a run has kept, or the runs below a folder.

    Args:
        folder: of one of these.
        latest: of one run no checkpoint but the latest.

    Raises:
        ValueError: if there is none.
    """
    found: dict[str, Path] = {}
    if (folder / "manifest.json").exists():
        found = {folder.name: folder}
    elif latest and (folder / "latest").exists():
        found = {folder.resolve().name: folder}
    elif (folder / "latest").exists():
        steps = [path for path in folder.glob("global_step*") if path.name[11:].isdigit()]
        found = {path.name: path for path in sorted(steps, key=lambda path: int(path.name[11:]))}
    else:
        for place, folders, files in os.walk(folder, followlinks=True):
            # What a study has put aside is no longer one of its runs.
            folders[:] = sorted(name for name in folders if name != "replaced")
            if "latest" in files:
                name = Path(place).relative_to(folder).as_posix()
                is_seed = _SEED.fullmatch(name)
                found[f"{folder.resolve().name}/{name}" if is_seed else name] = Path(place)
    if not found:
        raise ValueError(f"--checkpoints is {folder}: no run and no checkpoint in it")
    return found


def rows_of(text: str) -> list[Sequence[str]]:
    """Rows of tasks: of a set by its name, none of "none", or as written with commas in a row.

    Example:
        >>> rows_of("rte,wsc copa")
        [['rte', 'wsc'], ['copa']]
    """
    if text in ROWS:
        return list(ROWS[text])
    return [] if text == "none" else [row.split(",") for row in text.split()]


def rows_and_examples(
    zero_shot: str, few_shot: str, num_fewshot: int
) -> list[tuple[int, Sequence[str]]]:
    """Each row of tasks with the number of examples before a question.

    Raises:
        ValueError: if there is nothing to evaluate.
    """
    rows = [(0, row) for row in rows_of(zero_shot)]
    rows += [(num_fewshot, row) for row in rows_of(few_shot)]
    if not rows:
        raise ValueError("--zero-shot and --few-shot are none: nothing to evaluate")
    return rows


def evaluations(
    checkpoints: Mapping[str, Path], output: Path, rows: Sequence[tuple[int, Sequence[str]]]
) -> list[Evaluation]:
    """All of them, by checkpoint; `output` is the folder of the results."""
    return [
        Evaluation(checkpoint=path, name=name, tasks=row, num_fewshot=shots, folder=output / name)
        for name, path in checkpoints.items()
        for shots, row in rows
    ]
