"""All that the page shows of runs at one moment, as JSON data.

`Runs.snapshot` is what the browser is sent again and again, so what did not change is not computed again:
a run's part is made anew when its log has grown, an arm's bands when one of its runs has.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron.reporting.run_log import LOG_FILE
from megatron.run_page.columns import AXES, Columns, is_number, train_columns, valid_columns
from megatron.run_page.found_runs import FoundRun, find_runs
from megatron.run_page.log_tail import LogTail, setting
from megatron.run_page.planned import NoPlanError, Planned, plan_of
from megatron.run_page.standing import standing
from megatron.run_page.texts import selecting_metrics, texts_by_difficulty, written_texts
from megatron.study.band import band_of
from megatron.study.results import AXES as COSTS
from megatron.study.results import LoggedMeasure, logged_measures

AXIS_NAMES = {**COSTS, "step": "steps"}
LOOK_FOR_RUNS_SECONDS = 5.0
"""Between two looks for runs that have begun meanwhile."""
SIGNIFICANT_DIGITS = 6
_LAST_FIELDS = (
    *AXES,
    "loss",
    "learning_rate",
    "sequence_length",
    "kept_length",
    "pool_size",
    "tokens_per_second",
)

Json = dict[str, Any]


@dataclass
class _Watched:
    """A run and what was made of its log."""

    found: FoundRun
    log: LogTail
    made_of: int = -1
    """Version of the log."""
    part: Json = field(default_factory=dict)
    planned: Planned | str | None = None
    """A plan, or why there is none; None: not looked for yet."""


class Runs:
    """The runs in and below folders.

    Args:
        folders: what was given; runs are looked for in and below them.
        data: further folders of which corpora and indexes may be read. Nothing outside of both is.
        clock: seconds since 1970.

    Raises:
        FileNotFoundError: if a folder is not there.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        data: Sequence[Path] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folders, self._clock = folders, clock
        self._readable = [folder.resolve() for folder in (*folders, *data)]
        self._watched: dict[Path, _Watched] = {}
        self._bands: dict[tuple[Any, ...], Json] = {}
        self._indexes: dict[str, Json] = {}
        self._looked = -math.inf
        self._look_for_runs()

    def may_read(self, path: Path) -> bool:
        """Whether a file or folder lies in or below what was given, links followed."""
        real = path.resolve()
        return any(real.is_relative_to(folder) for folder in self._readable)

    def read_files(self) -> list[Path]:
        """The logs that the page is made of."""
        return [folder / LOG_FILE for folder in self._watched]

    def _look_for_runs(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_FOR_RUNS_SECONDS:
            return
        self._looked = now
        found = {run.folder: run for run in find_runs(self._folders)}
        self._watched = {
            folder: self._watched.get(folder) or _Watched(run, LogTail(folder))
            for folder, run in found.items()
        }

    def snapshot(self) -> Json:
        """What there is to be seen now."""
        self._look_for_runs()
        runs = [self._part(watched) for watched in self._watched.values()]
        arms: dict[str, list[Json]] = {}
        for run in runs:
            arms.setdefault(run["arm"], []).append(run)
        return {
            "axes": [{"key": key, "name": name} for key, name in AXIS_NAMES.items()],
            "runs": runs,
            "arms": [
                {"name": name, "bands": self._bands_of(name, own)} for name, own in arms.items()
            ],
            "indexes": [
                {"folder": folder, **found} for folder, found in sorted(self._indexes.items())
            ],
        }

    def _part(self, watched: _Watched) -> Json:
        """A run's part of the page."""
        watched.log.poll()
        if watched.made_of != watched.log.version:
            watched.made_of = watched.log.version
            watched.part = self._made(watched)
        return {**watched.part, **standing(watched.log, self._clock())}

    def _made(self, watched: _Watched) -> Json:
        found, log = watched.found, watched.log
        start = log.start or {}
        measure = _measure(start)
        train = train_columns(log.records("train"))
        valid = valid_columns(log.records("valid"), (measure.field, measure.curve))
        last = (log.records("train") or [{}])[-1]
        return {
            "name": found.name,
            "arm": found.arm,
            "seed": found.seed,
            "version": log.version,
            "measure": {"name": measure.name, "unit": measure.unit},
            "train": _short(train),
            "valid": _short(valid),
            "last": {name: last[name] for name in _LAST_FIELDS if is_number(last.get(name))},
            "last_valid": valid["value"][-1] if valid["value"] else None,
            "facts": _facts(start),
            "plan": self._plan_part(watched, last),
            "texts": written_texts(log.records("sample")),
            "indexes": self._read_indexes(start),
        }

    def _plan_part(self, watched: _Watched, last: Mapping[str, Any]) -> Json:
        start = watched.log.start
        if start is None:
            return {"problem": "the run has not begun"}
        if watched.planned is None:
            try:
                watched.planned = plan_of(start, self.may_read)
            except NoPlanError as error:
                watched.planned = str(error)
        if isinstance(watched.planned, str):
            return {"problem": watched.planned}
        counted = watched.log.end or last
        beside = watched.planned.beside(counted) if counted.get("step") else []
        return {
            "last_step": watched.planned.last_step,
            "columns": _short(watched.planned.columns()),
            "step": counted.get("step"),
            "beside": beside,
        }

    def _read_indexes(self, start: Mapping[str, Any]) -> Json:
        """The metrics that select the run's samples, whose indexes are read where they were not yet."""
        metrics = selecting_metrics(start)
        for metric in metrics.values():
            folder = metric["folder"]
            if folder not in self._indexes:
                self._indexes[folder] = texts_by_difficulty(start, folder, self.may_read)
        return {**metrics}

    def _bands_of(self, arm: str, runs: Sequence[Json]) -> Json:
        """Of an arm with several seeds: chart -> axis -> places, means, and ends of the intervals."""
        key = (arm, *((run["name"], run["version"]) for run in runs))
        if key not in self._bands:
            self._bands = {known: one for known, one in self._bands.items() if known[0] != arm}
            self._bands[key] = {
                chart: {axis: band for axis in AXES if (band := _band(runs, chart, value, axis))}
                for chart, value in (("valid", "value"), ("train", "smoothed_loss"))
            }
        return self._bands[key]


def _measure(start: Mapping[str, Any]) -> LoggedMeasure:
    """What a run is judged by; of a log that tells it in a form that is not known, the validation loss."""
    try:
        return logged_measures(start)[0]
    except (TypeError, KeyError, AttributeError, IndexError):
        return logged_measures({})[0]


def _band(runs: Sequence[Json], chart: str, value: str, axis: str) -> Columns | None:
    """Mean over the seeds and its interval, of runs that count the axis; None of fewer than two."""
    curves = []
    for run in runs:
        columns = run[chart]
        if axis not in columns or value not in columns:
            continue
        pairs = zip(columns[axis], columns[value], strict=True)
        curve = [{axis: x, value: y} for x, y in pairs if x is not None and y is not None]
        if len(curve) > 1:
            curves.append(curve)
    if len(curves) < 2:
        return None
    band = band_of(curves, axis, value)
    if band.half_widths is None:
        return None
    return _short(
        {
            "x": band.places.tolist(),
            "mean": band.means.tolist(),
            "low": (band.means - band.half_widths).tolist(),
            "high": (band.means + band.half_widths).tolist(),
        }
    )


def _facts(start: Mapping[str, Any]) -> Json:
    """What the run is, as far as its log says it."""
    names = ("num_parameters", "num_layers", "sequence_length", "global_batch_size")
    found = {name: start[name] for name in names if is_number(start.get(name))}
    samples = start.get("train_samples_in_dataset")
    if is_number(samples):
        found["num_samples"] = samples
    rate = setting(start, "training").get("lr")
    if is_number(rate):
        found["lr"] = rate
    return found


def _short(columns: Columns) -> Columns:
    """Columns with fractions rounded to what a picture shows."""
    return {
        name: [
            float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
            for value in values
        ]
        for name, values in columns.items()
    }
