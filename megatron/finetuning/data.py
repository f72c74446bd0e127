"""The examples of a finetuning task, from the official TSV files, JSON lines or the Hugging Face hub.

    FOLDER/RTE/train.tsv, dev.tsv              as GLUE's archives unpack (MNLI: dev_matched, ...)
    FOLDER/rte/train.jsonl, dev.jsonl          a text or two, and a label by name; also .gz and .zst

Test files are never read: nothing here can choose by them.
"""

import math
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron.corpus.text_sources import find_sources, read_blocks, records_of
from megatron.finetuning.tasks import GLUE, MAX_SCORE, TRAIN, GlueTask, task_named

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


class Row(NamedTuple):
    """An example as a file has it."""

    where: str
    """File and line."""
    values: Mapping[str, Any]


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
    rows: dict[str, list[Row]] = {}
    for part in (TRAIN, *task.dev_sets):
        if source == HUB:
            rows[part] = list(_hub_rows(task, part))
        else:
            rows[part] = list(_file_rows(_file_of(Path(source), task, part), task))
        if not rows[part]:
            raise ValueError(f"{task.name}: {part} has no examples")
    if not task.is_regression:
        found = sorted({_class_name(row, _label_column(task, row)) for row in rows[TRAIN]})
        if len(found) == 1:
            raise ValueError(
                f"{rows[TRAIN][0].where}: {found[0]!r} is the label of this and of every other training"
                " example: a classification needs two classes at least"
            )
        task = task if task.labels else replace(task, labels=tuple(found))
    return task, {part: _examples(task, found) for part, found in rows.items()}


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


def _file_rows(path: Path, task: GlueTask) -> Iterator[Row]:
    if path.suffix == ".tsv":
        yield from _tsv_rows(path, task)
        return
    for block in read_blocks(find_sources([path])[0]):
        yield from map(Row._make, records_of(block))


def _tsv_rows(path: Path, task: GlueTask) -> Iterator[Row]:
    """Rows by column name. Quotes are plain characters, and a few broken lines (QQP has some) are left
    out: many are an error.
    """
    lines: list[tuple[int, list[str]]] = []
    for number, line in enumerate(path.read_bytes().removeprefix(BOM_UTF8).split(b"\n"), start=1):
        if line.strip():
            try:
                lines.append((number, line.decode().removesuffix("\r").split("\t")))
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 (byte {error.start})") from None
    columns = task.columns or (tuple(lines.pop(0)[1]) if lines else ())
    needed = (*task.texts, task.label)
    absent = [name for name in needed if name not in columns]
    if absent or not task.texts:
        raise ValueError(
            f"{path} has no column {absent or 'that is known'}: {task.name} needs the official TSV"
            " files of GLUE, or JSON lines"
        )
    rows = [
        Row(f"{path}:{number}", dict(zip(columns, cells, strict=False))) for number, cells in lines
    ]
    whole = [row for row in rows if row.values.keys() >= set(needed)]
    if len(rows) - len(whole) > _MAX_BROKEN_SHARE * len(rows):
        first = next(row.where for row, kept in zip_longest(rows, whole) if row is not kept)
        raise ValueError(
            f"{first}: too few cells, as in {len(rows) - len(whole)} of {len(rows)} rows"
        )
    yield from whole


def _hub_rows(task: GlueTask, part: str) -> Iterator[Row]:
    try:
        from datasets import load_dataset  # noqa: PLC0415 - optional, and only for the hub
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--data hub needs the datasets library: pip install datasets"
        ) from error
    name = task.name.lower().replace("-", "")
    split = part.replace("dev", "validation")
    for number, row in enumerate(load_dataset("nyu-mll/glue", name, split=split)):
        yield Row(f"nyu-mll/glue {name} {split}, row {number}", row)


def _examples(task: GlueTask, rows: list[Row]) -> Examples:
    names = _text_columns(task, rows[0])
    columns = [[_text(row, name) for row in rows] for name in names]
    if task.is_regression:
        labels: Any = np.array([_score(row, _label_column(task, row)) for row in rows])
    else:
        labels = np.array(_class_numbers(task, rows), np.int64)
    return Examples(columns[0], columns[1] if len(columns) == 2 else None, labels)


def _text_columns(task: GlueTask, row: Row) -> tuple[str, ...]:
    if task.texts and row.values.keys() >= set(task.texts):
        return task.texts
    found = next((names for names in _JSON_TEXTS if row.values.keys() >= set(names)), None)
    if found is None or (task.texts and len(found) != len(task.texts)):
        raise ValueError(
            f"{row.where}: the columns {', '.join(row.values)} hold no texts that are known; call them"
            f" {' and '.join(task.texts or _JSON_TEXTS[0])}"
        )
    return found


def _label_column(task: GlueTask, row: Row) -> str:
    return task.label if task.label in row.values else "label"


def _value(row: Row, name: str) -> Any:
    if name not in row.values:
        raise ValueError(f"{row.where}: no {name!r}; the row has {', '.join(row.values)}")
    return row.values[name]


def _text(row: Row, name: str) -> str:
    value = _value(row, name)
    if not isinstance(value, str):
        raise ValueError(f"{row.where}: {name!r} is {value!r:.60}: must be a text")
    return value


def _class_name(row: Row, name: str) -> str:
    value = _value(row, name)
    if not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(
            f"{row.where}: {name!r} is {value!r:.60}: must be the name or the number of a class"
        )
    return str(value)


def _score(row: Row, name: str) -> float:
    value = _value(row, name)
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not 0 <= score <= MAX_SCORE:
        raise ValueError(
            f"{row.where}: {name!r} is {value!r:.60}: must be a number from 0 to {MAX_SCORE:g}"
        )
    return score


def _class_numbers(task: GlueTask, rows: list[Row]) -> list[int]:
    assert task.labels is not None
    numbers = {str(i): i for i in range(len(task.labels))} if task.texts else {}
    numbers |= {code: i for i, code in enumerate(task.codes or ())}
    numbers |= {name: i for i, name in enumerate(task.labels)}
    found = []
    for row in rows:
        name = _class_name(row, _label_column(task, row))
        if name not in numbers:
            raise ValueError(
                f"{row.where}: label {name!r:.60} is none of {', '.join(task.labels)}; test files, whose"
                " labels are hidden, cannot be used"
            )
        found.append(numbers[name])
    return found
