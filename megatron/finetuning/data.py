"""The examples of a finetuning task, from the official TSV files, JSON lines or the Hugging Face hub.

    FOLDER/RTE/train.tsv, dev.tsv              as GLUE's archives unpack (MNLI: dev_matched, ...)
    FOLDER/rte/train.jsonl, dev.jsonl          a text or two, and a label by name; also .gz and .zst

Test files are never read: nothing here can choose by them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron.corpus.text_sources import find_sources, read_blocks
from megatron.finetuning.tasks import GLUE, TRAIN, GlueTask, task_named

HUB = "hub"
"""In place of a folder: the data set nyu-mll/glue, through the `datasets` library."""

_ENDINGS = (".tsv", ".jsonl", ".jsonl.gz", ".jsonl.zst")
_JSON_TEXTS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("sentence",),
    ("text",),
)
_MAX_BROKEN_SHARE = 0.001


class Examples(NamedTuple):
    """Texts and labels, one entry an example."""

    first: list[str]
    second: list[str] | None
    """None where there is one text."""
    labels: npt.NDArray[np.float64] | npt.NDArray[np.int64]

    def first_rows(self, number: int | None) -> "Examples":
        """Only the first so many; None for all."""
        second = None if self.second is None else self.second[:number]
        return Examples(self.first[:number], second, self.labels[:number])


def read_task(source: str | Path, name: str) -> tuple[GlueTask, dict[str, Examples]]:
    """A task and its sets: "train", then the development sets.

    Args:
        source: folder of the tasks' folders, or `HUB`.
        name: of a GLUE task, or of any folder with a classification in JSON lines.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what the task needs.
    """
    task = task_named(name)
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for part in (TRAIN, *task.dev_sets):
        if source == HUB:
            rows[part] = list(_hub_rows(task, part))
        else:
            rows[part] = list(_file_rows(_file_of(Path(source), task, part), task))
        if not rows[part]:
            raise ValueError(f"{task.name}: {part} has no examples")
    if task.labels is None and not task.is_regression:
        found = sorted({str(row.get("label")) for row in rows[TRAIN]})
        task = replace(task, labels=tuple(found))
    return task, {part: _examples(task, part, found) for part, found in rows.items()}


def _file_of(folder: Path, task: GlueTask, part: str) -> Path:
    wanted = task.name.lower()
    folders = [path for path in sorted(folder.iterdir()) if path.name.lower() == wanted]
    for searched in folders:
        for ending in _ENDINGS:
            if (searched / (part + ending)).is_file():
                return searched / (part + ending)
    raise FileNotFoundError(
        f"{folder / task.name} has no {part}.tsv or {part}.jsonl: --data is the folder of the tasks'"
        f" folders; the GLUE tasks are {', '.join(GLUE)}"
    )


def _file_rows(path: Path, task: GlueTask) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".tsv":
        yield from _tsv_rows(path, task)
        return
    for block in read_blocks(find_sources([path])[0]):
        for number, line in enumerate(block.content.splitlines(), block.first_line):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be a JSON object")
            yield row


def _tsv_rows(path: Path, task: GlueTask) -> Iterator[Mapping[str, str]]:
    """Rows by column name. Quotes are plain characters, and a few broken lines (QQP has some) are left
    out: many are an error.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    lines = [line.removesuffix("\r") for line in lines if line.strip()]
    columns = task.columns or tuple(lines.pop(0).split("\t"))
    needed = (*task.texts, task.label)
    absent = [name for name in needed if name not in columns]
    if absent or not task.texts:
        raise ValueError(
            f"{path} has no column {absent or 'that is known'}: {task.name} needs the official TSV"
            " files of GLUE, or JSON lines"
        )
    rows = [dict(zip(columns, cells, strict=False)) for cells in (row.split("\t") for row in lines)]
    whole = [row for row in rows if all(name in row for name in needed)]
    if len(rows) - len(whole) > _MAX_BROKEN_SHARE * len(rows):
        raise ValueError(f"{path}: {len(rows) - len(whole)} of {len(rows)} rows have too few cells")
    yield from whole


def _hub_rows(task: GlueTask, part: str) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset  # noqa: PLC0415 - optional, and only for the hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--data hub needs the datasets library: pip install datasets"
        ) from error
    name = task.name.lower().replace("-", "")
    split = part.replace("dev", "validation")
    rows: Iterable[Mapping[str, Any]] = load_dataset("nyu-mll/glue", name, split=split)
    return rows


def _examples(task: GlueTask, part: str, rows: list[Mapping[str, Any]]) -> Examples:
    where = f"{task.name}, {part}"
    texts = _text_columns(task, rows[0], where)
    label = task.label if task.label in rows[0] else "label"
    missing = next((row for row in rows if not {*texts, label} <= row.keys()), None)
    if missing is not None:
        raise ValueError(f"{where}: a row has no {label} or no {' or '.join(texts)}: {missing}")
    columns = [[str(row[name]) for row in rows] for name in texts]
    values = [row[label] for row in rows]
    return Examples(
        columns[0], columns[1] if len(texts) == 2 else None, _labels(task, where, values)
    )


def _text_columns(task: GlueTask, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if task.texts and all(name in row for name in task.texts):
        return task.texts
    found = next((names for names in _JSON_TEXTS if all(name in row for name in names)), None)
    if found is None or (task.texts and len(found) != len(task.texts)):
        raise ValueError(
            f"{where}: the columns {', '.join(row)} hold no texts that are known; call them"
            f" {' and '.join(task.texts or _JSON_TEXTS[0])}"
        )
    return found


def _labels(
    task: GlueTask, where: str, values: list[Any]
) -> npt.NDArray[np.float64] | npt.NDArray[np.int64]:
    if task.is_regression:
        try:
            scores = np.array([float(value) for value in values])
        except ValueError as error:
            raise ValueError(f"{where}: a score is no number ({error})") from None
        if not np.isfinite(scores).all():
            raise ValueError(f"{where}: a score is not finite")
        return scores
    assert task.labels is not None
    numbers = {str(i): i for i in range(len(task.labels))} if task.texts else {}
    numbers |= {code: i for i, code in enumerate(task.codes or ())}
    numbers |= {name: i for i, name in enumerate(task.labels)}
    unknown = sorted({str(value) for value in values} - numbers.keys())
    if unknown:
        raise ValueError(
            f"{where}: label {unknown[0]!r} is none of {', '.join(task.labels)}; test files, whose"
            " labels are hidden, cannot be used"
        )
    return np.array([numbers[str(value)] for value in values], np.int64)
