"""Difficulty indexes from pipelines of datatrove, on any of its executors.

    LocalPipelineExecutor([JsonlReader("texts"), KeepTokens("difficulty", "tokenizer.json")], tasks=8).run()
    LocalPipelineExecutor([WriteIndexes("difficulty", ["seqlen", "vocab_rarity"])], tasks=1).run()

A task keeps the tokens of its documents as a part; one task puts the parts together, as the rows of one dataset, and analyzes
these. For a metric that takes long, such as one by a model, its parts are shared by tasks again:

    LocalPipelineExecutor([WriteIndexes("difficulty", [])], tasks=1).run()
    LocalPipelineExecutor([MapMetric("difficulty", "own_metrics:score")], tasks=8).run()
    LocalPipelineExecutor([WriteIndexes("difficulty", ["own_metrics:score"])], tasks=1).run()

What a task was at when it was killed is made anew when the pipeline is run again. `save` is a folder that all tasks see, or a URL.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datatrove.pipeline.base import PipelineStep

from data_efficiency.analysis.map_reduce import MapReduce, executor_for
from data_efficiency.analysis.named_metrics import (
    TOKENS_FOLDER,
    MetricSettings,
    analyze,
    metric_named,
    reader_for,
)
from data_efficiency.analysis.text_tokenizer import TextTokenizer
from data_efficiency.analysis.token_parts import Stretch, TokenParts
from data_efficiency.analysis.token_rows import TokenRows, join_parts, parts_beside
from data_efficiency.files import read_json_object, write_file
from data_efficiency.files.remote import Location, RemotePath, location
from data_efficiency.files.result_folder import is_result

_DOCUMENTS_AT_ONCE = 1000
_TOKENIZER = "tokenizer"
_TYPE = "ANALYSIS"


class KeepTokens(PipelineStep):
    """Keeps the tokens of the documents of each task, which pass on as they are.

    Args:
        save: folder or URL of the results.
        tokenizer: as of `TextTokenizer`.
    """

    name = "difficulty: keep tokens"
    type = _TYPE

    def __init__(self, save: str, tokenizer: Any) -> None:
        super().__init__()
        self.save = str(save)
        self.tokenizer = TextTokenizer(tokenizer)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """The documents; their tokens are kept when all have passed."""
        origin = {"tokenizer": self.tokenizer.fingerprint, "num_tasks": world_size}
        parts = parts_beside(location(self.save) / TOKENS_FOLDER, origin)
        documents = iter(data or ())
        with parts.new_part(_name(rank)) as part:
            while some := list(islice(documents, _DOCUMENTS_AT_ONCE)):
                with self.track_time("batch"):
                    rows = self.tokenizer.encode([document.text for document in some])
                    for document, row in zip(some, rows, strict=True):
                        part.add(row, str(document.metadata.get("file_path", "")))
                        self.stat_update("tokens", value=len(row), unit="doc")
                yield from some
            # Whoever puts the parts together needs it, and every task has the same.
            write_file(parts.path / _TOKENIZER, self.tokenizer.json)


class MapMetric(PipelineStep):
    """Computes a task's share of a metric, of tokens that `WriteIndexes` has put together.

    Args:
        save: as of `KeepTokens`.
        metric: name, or `package.module:function`.
        settings: what the metric needs.
    """

    name = "difficulty: map"
    type = _TYPE

    def __init__(self, save: str, metric: str, settings: MetricSettings | None = None) -> None:
        super().__init__()
        self.save, self.metric = str(save), metric
        self.settings = settings or MetricSettings()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """The documents that come, if any, and then the work."""
        yield from data or ()
        place = location(self.save)
        rows = TokenRows(place / TOKENS_FOLDER)
        metric = metric_named(self.metric, rows, place, self.settings)
        job = MapReduce(reader_for(metric, rows, self.settings), [metric], place)
        with self.track_time("task"):
            job.run_map(executor_for(1), rank, world_size)


class WriteIndexes(PipelineStep):
    """Puts the tokens of all tasks together, and writes the index of each metric; a pipeline of one task.

    Args:
        save: as of `KeepTokens`.
        metrics: names, or `package.module:function`; none: the tokens are put together alone.
        order: of the samples. files: the files that were read, by name, and in each its documents: the dataset of these
            files. tasks: the documents of the first task, then of the second, ...: the files that a writer behind
            `KeepTokens` writes.
        settings: what the metrics need.
        num_processes, executor, max_distinct_values: as of `analyze`.
        overwrite: make results anew that are there.
    """

    name = "difficulty: write indexes"
    type = _TYPE

    def __init__(  # noqa: PLR0913 - what `analyze` takes
        self,
        save: str,
        metrics: Sequence[str] = ("vocab_rarity",),
        *,
        order: Literal["files", "tasks"] = "files",
        settings: MetricSettings | None = None,
        num_processes: int | None = None,
        executor: str = "processes",
        max_distinct_values: int | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        if order not in ("files", "tasks"):
            raise ValueError(f"order is {order!r}: files or tasks")
        self.save, self.metrics, self.order = str(save), tuple(metrics), order
        self.settings = settings
        self.overwrite = overwrite
        self.options: dict[str, Any] = {
            "num_processes": num_processes,
            "executor": executor,
            "max_distinct_values": max_distinct_values,
        }

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """The documents that come, if any, and then the work.

        Raises:
            ValueError: if there are several tasks, or the parts are not of one run, or say no order.
            FileNotFoundError: if a task's part is missing.
        """
        yield from data or ()
        if world_size != 1:
            raise ValueError(f"WriteIndexes was given {world_size} tasks: it is the work of one")
        with self.track_time("task"):
            rows = put_together(self.save, self.order, overwrite=self.overwrite)
            for metric in self.metrics:
                work = {**self.options, "overwrite": self.overwrite}
                analyze(rows, metric, self.save, self.settings, **work)
                self.stat_update(f"index of {metric}")


def put_together(save: str, order: str, *, overwrite: bool = False) -> TokenRows:
    """The rows of all tasks, kept as one dataset; those that are there already, where no task has kept others.

    Raises:
        ValueError: if the parts are not of one run, or say no order.
        FileNotFoundError: if a task's part is missing.
    """
    target = location(save) / TOKENS_FOLDER
    parts = parts_beside(target, None)
    names = [name for name in parts.names() if name.isdigit()]
    sums = {name: _checksum(parts, name) for name in names}
    if is_result(target):
        made_from = TokenRows(target).manifest["made_from"] or {}
        # They are removed when they have become one, which may have been stopped.
        if set(sums.values()) <= set(made_from.get("parts", ())):
            _refuse_other_order(target, made_from, order)
            parts.remove_all()
            return TokenRows(target)
    if not names:
        raise FileNotFoundError(
            f"{parts.path}: no task has kept tokens: run a pipeline with KeepTokens first, with "
            "skip_completed=False if it was run before"
        )
    origins = [read_json_object(parts.path / f"{name}.json")["origin"] for name in names]
    if any(origin != origins[0] for origin in origins):
        raise ValueError(
            f"{parts.path} holds parts of several runs, of other numbers of tasks or other tokenizers: remove it, and "
            "run the pipeline with KeepTokens again, with skip_completed=False"
        )
    missing = sorted({_name(rank) for rank in range(origins[0]["num_tasks"])} - set(names))
    if missing:
        raise FileNotFoundError(
            f"{parts.path}: the parts of {len(missing)} of {origins[0]['num_tasks']} tasks are missing, such as "
            f"{missing[0]}: run the pipeline with KeepTokens again"
        )
    parts = TokenParts(parts.path, origins[0])
    made_from = {
        "parts": list(sums.values()),
        "order": order,
        "tokenizer": origins[0]["tokenizer"],
    }
    rows = join_parts(
        parts,
        _stretches(parts, names, order),
        target,
        tokenizer=_tokenizer(parts.path),
        made_from=made_from,
        overwrite=overwrite,
    )
    parts.remove_all()
    return rows


def _name(rank: int) -> str:
    return f"{rank:05d}"


def _checksum(parts: TokenParts, name: str) -> str:
    """Of what a part of any run is and holds, as its marker says it."""
    return hashlib.sha256((parts.path / f"{name}.json").read_bytes()).hexdigest()[:16]


def _refuse_other_order(target: Location, made_from: dict[str, Any], order: str) -> None:
    if made_from.get("order") != order:
        raise ValueError(
            f"{target} was put together in the order of {made_from.get('order')}, not of {order}: save elsewhere"
        )


def _stretches(parts: TokenParts, names: Sequence[str], order: str) -> list[Stretch]:
    """The rows of the parts in order."""
    found: dict[tuple[str, str], Stretch] = {}
    for name in names:
        first = 0
        for file, num_rows in (parts.marker(name) or {})["segments"]:
            stretch = Stretch(name, first, first + num_rows)
            first += num_rows
            key = (file, "") if order == "files" else (name, f"{first:020d}")
            if order == "files" and not file:
                raise ValueError(
                    f"documents of task {name} do not say which file they come from (file_path in their metadata): let "
                    "the reader add it, or take order='tasks'"
                )
            if key in found:
                raise ValueError(
                    f"the documents of {file} are in several places (tasks {found[key].part} and {name}): they have no "
                    "order by files; take order='tasks'"
                )
            found[key] = stretch
    return [found[key] for key in sorted(found)]


def _tokenizer(path: Location) -> TextTokenizer:
    """The tokenizer that the tasks have left."""
    file = path / _TOKENIZER
    if isinstance(file, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            file.fetch(Path(folder) / _TOKENIZER)
            return TextTokenizer(Path(folder) / _TOKENIZER)
    return TextTokenizer(file)
