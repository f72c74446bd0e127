"""What a finished run says: what it reached, its costs on every axis, its pacing, and all facts it ran with.

A run's log names what the run is measured by; of pretraining these are the validation losses. Evaluations
on tasks whose results lie in the run's folder are further measures.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.evaluation.result_table import scores_of
from megatron.evaluation.results import is_finished, read_record
from megatron.reporting.run_log import (
    LOG_FILE,
    Record,
    RunLog,
    losses_of,
    read_log,
    why_unfinished,
)

AXES = {
    "corpus_tokens": "corpus tokens",
    "effective_tokens": "effective tokens",
    "flops": "FLOPs",
    "seconds": "seconds",
}
"""Cost -> its name on a page. Effective tokens are layer tokens by the number of layers; FLOPs include
what was spent on scores outside of the run; seconds are those of training."""
PACINGS = {
    "sequence_length": "Sequence length (tokens)",
    "kept_length": "Seen by layers that drop tokens",
    "pool_percent": "Pool a batch is drawn from (%)",
}
MOST_PACING_POINTS = 100
RESULT_LINES = "results.jsonl"
"""Of a report: its runs, one a line."""
STARVED_SHARE = 0.05
"""From this part of a run's time spent waiting for a core its seconds are no measure of the method."""
_TIMED_BY = ("device", "device_name", "num_processes", "num_threads")
"""What a machine's seconds depend on, of a run's `environment`."""

RunKey = tuple[str, int, float]
"""Arm, seed and budget of a run."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What runs are judged by."""

    name: str = "validation loss"
    unit: str = "nats per token"
    higher_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class LoggedMeasure(Measure):
    """A measure and where it stands in a log."""

    field: str
    """Of lines of kind "valid"."""
    curve: str
    """Likewise, for evaluations before the last."""
    is_derived: bool = False
    """Whether it says another one again in other words."""

    @property
    def measure(self) -> Measure:
        """Without the places."""
        return Measure(name=self.name, unit=self.unit, higher_is_better=self.higher_is_better)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run."""

    arm: str
    seed: int
    budget: float = 1.0
    measure: Measure = field(default_factory=Measure)
    value: float
    """Of the measure, at the end."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Further figures at the end, by name."""
    costs: Mapping[str, float]
    """Axis -> total at the end; axes that the run does not count are left out."""
    curve: Sequence[Mapping[str, float]]
    """`value` and the costs at each evaluation."""
    pacing: Sequence[Mapping[str, float]] = ()
    """`step` and `PACINGS` over the run, at most 100 points."""
    facts: Mapping[str, Any]
    """`settings`, and what the run says of its machine, code, data and first weights."""
    waited: float | None = None
    """Share of the time spent waiting for a core; None: not known."""
    made_by: str = ""
    """What stands for the commands that made what the study's runs share."""

    @property
    def key(self) -> RunKey:
        """What it is among the runs of a study."""
        return self.arm, self.seed, self.budget

    @property
    def timed_on(self) -> tuple[Any, ...] | None:
        """The machine that the seconds are of; None where they are no measure: cores were shared, or nobody knows."""
        if self.waited is None or self.waited >= STARVED_SHARE:
            return None
        known = self.facts.get("environment") or {}
        place = tuple(known.get(name) for name in _TIMED_BY)
        return None if any(isinstance(each, list) for each in place) else place


def read_result(
    folder: Path,
    *,
    arm: str,
    budget: float = 1.0,
    scoring_flops: float = 0.0,
    measure: str | None = None,
) -> RunResult:
    """The result in a run's folder.

    Args:
        scoring_flops: operations spent outside of the run for it.
        measure: name of what the run is judged by; None: what its log names first.

    Raises:
        ValueError: if the run has no such measure, has not been evaluated, a figure is no finite number, or its
            log is damaged.
        FileNotFoundError: if there is no run.
    """
    with files.reading(folder / LOG_FILE):
        return _checked(_result(folder, arm, budget, scoring_flops, measure))


def _checked(found: RunResult) -> RunResult:
    """The result, if all its figures are finite numbers: ValueError otherwise, by the name of the figure."""
    end = {"value": found.value, "waited": found.waited or 0, **found.costs, **found.others}
    for name, figure in (one for row in (end, *found.curve, *found.pacing) for one in row.items()):
        if type(figure) not in (int, float) or not -(2**63) <= figure < 2**63:
            raise ValueError(f"{name} is {figure!r}: must be a finite number of 64 bits")
    return found


def _result(
    folder: Path, arm: str, budget: float, scoring_flops: float, measure: str | None
) -> RunResult:
    log = read_log(folder)
    known = logged_measures(log.start)
    main = known[0] if measure is None else next((m for m in known if m.name == measure), None)
    if main is None:
        names = ", ".join(one.name for one in known)
        raise ValueError(f"{folder} is not measured by {measure!r}: its measures are {names}")
    if not log.valid or log.valid[-1].get(main.field) is None:
        reason = "has no evaluation" if not log.valid else "ended with no finite number"
        raise ValueError(f"{folder / LOG_FILE} {reason} of {main.name}")
    last = log.valid[-1]
    curve = [
        {"value": value, **_costs(point, scoring_flops)}
        for point in log.valid
        if point["step"] and (value := point.get(main.field, point.get(main.curve))) is not None
    ]
    waits = [point["waited"] for point in log.valid if point.get("waited") is not None]
    others = {
        one.name: last[one.field]
        for one in known
        if one != main and not one.is_derived and one.field in last
    }
    return RunResult(
        arm=arm,
        seed=_seed(log.start),
        budget=budget,
        measure=main.measure,
        value=last[main.field],
        # By name, as they stand in the lines that are kept: a page is the same from both.
        others=dict(sorted({**others, **_evaluations(folder)}.items())),
        costs={axis: curve[-1][axis] for axis in AXES if axis in curve[-1]},
        curve=curve,
        pacing=_pacing(log),
        facts=_facts(log),
        waited=max(waits, default=None),
    )


def logged_measures(start: Record) -> list[LoggedMeasure]:
    """What a run can be judged by, the first one if nobody names another."""
    if "measures" in start:
        places = [{"field": one["name"], "curve": one["name"], **one} for one in start["measures"]]
        return [LoggedMeasure(**one) for one in places]
    names = losses_of(start)
    one_only = len(names) == 1
    fields = {
        "validation loss" if one_only else f"validation {name} loss": "loss"
        if one_only
        else f"{name}_loss"
        for name in names
    }
    found = [LoggedMeasure(name=name, field=field, curve=field) for name, field in fields.items()]
    if start.get("is_averaged"):
        found += [
            LoggedMeasure(
                name=f"{one.name} of the average",
                field=f"average_{one.field}",
                curve=f"average_{one.curve}",
            )
            for one in found
        ]
    perplexity = {"field": "perplexity", "curve": "perplexity", "unit": "", "is_derived": True}
    return [*found, LoggedMeasure(name="validation perplexity", **perplexity)]  # type: ignore[arg-type]


def _evaluations(folder: Path) -> dict[str, float]:
    """Task and number of examples -> score, of results in the run's folder that are of its last checkpoint."""
    found: dict[str, float] = {}
    for path in sorted(folder.glob("*shot/*.json")):
        if is_finished(path, folder, {}):
            record = read_record(path)
            shots = record["num_fewshot"] or 0
            found |= {f"{task} ({shots}-shot)": one for task, one in scores_of(record).items()}
    return found


@dataclass(frozen=True, kw_only=True)
class ArmRuns:
    """Runs of one arm that no study made."""

    results: Sequence[RunResult]
    """Of those that have come to their end."""
    unfinished: Mapping[int, str]
    """Seed -> why it has not."""


def read_arm(folder: Path, arm: str) -> ArmRuns:
    """The run of a folder, or those of a folder with one for each seed (`seed*`).

    Raises:
        ValueError: if a finished one has nothing to say, or two are of one seed.
        FileNotFoundError: if there is no run.
    """
    results: list[RunResult] = []
    unfinished: dict[int, str] = {}
    for place in _runs_in(folder):
        with files.reading(place / LOG_FILE):
            log = read_log(place)
            seed, reason = _seed(log.start), why_unfinished(log.end)
        if seed in unfinished or any(seed == one.seed for one in results):
            raise ValueError(f"{folder} has two runs of seed {seed}: a run counts once")
        if reason is None:
            results.append(read_result(place, arm=arm))
        else:
            unfinished[seed] = reason
    return ArmRuns(results=results, unfinished=unfinished)


def _runs_in(folder: Path) -> list[Path]:
    if (folder / LOG_FILE).is_file():
        return [folder]
    seeds = [
        path
        for path in sorted(folder.glob("seed*"))
        if "_budget" not in path.name and (path / LOG_FILE).is_file()
    ]
    if not seeds:
        raise FileNotFoundError(
            f"{folder} holds no {LOG_FILE}, and no seed*/ with one: give a run's folder, or the folder of its "
            "seeds"
        )
    return seeds


def _costs(point: Record, scoring_flops: float) -> dict[str, float]:
    more = {"flops": scoring_flops}
    # Where the operations of a model are not known, none are counted.
    return {
        axis: point[axis] + more.get(axis, 0) for axis in AXES if point[axis] or axis != "flops"
    }


def _seed(start: Record) -> int:
    settings = start.get("settings") or {"training": start["flags"]}
    return int(settings["training"]["seed"])


def _facts(log: RunLog) -> dict[str, Any]:
    """Settings and circumstances; where a run went on elsewhere, of both."""
    start = log.start
    settings = start.get("settings")
    if settings is None:
        settings = {"training": start["flags"], "data_efficiency": start["data_efficiency"]}
    first = start.get("environment")
    others = [record["environment"] for record in log.resumed]
    tokens = start["train_samples_in_dataset"] * start["sequence_length"]
    if "pieces" in start:
        tokens = sum(int(length) * size for length, size in start["pieces"]["sizes"].items())
    return {
        "settings": settings,
        "environment": _over_resumes([first, *others]) if first else first,
        "weights": start.get("weights"),
        "data": start.get("data"),
        "size": {"parameters": start["num_parameters"], "tokens of training data": tokens},
    }


def _over_resumes(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run says of its machine; a list of the values of each field that changed where it went on."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in environments for name in one):
        values = [one.get(name) for one in environments]
        differ = [one for place, one in enumerate(values) if one not in values[:place]]
        found[name] = differ if len(differ) > 1 else differ[0]
    return found


def comparable_times(results: Sequence[RunResult]) -> list[RunResult]:
    """The runs whose seconds can be set beside each other: those that had cores for themselves, on one machine.

    Of several machines it is the one with most of such runs, of as many the first.
    """
    places = Counter(one.timed_on for one in results if one.timed_on is not None)
    if not places:
        return []
    [(machine, _)] = places.most_common(1)
    return [one for one in results if one.timed_on == machine]


def _pacing(log: RunLog) -> list[dict[str, float]]:
    """Lengths and pool over the steps, thinned out."""
    num_samples = log.start["train_samples_in_dataset"]
    every = -(-len(log.train) // MOST_PACING_POINTS) or 1
    found = []
    for record in log.train[::every]:
        length, pool = record["sequence_length"], record.get("pool_size")
        found.append(
            {
                "step": record["step"],
                "sequence_length": length,
                "kept_length": min(record.get("kept_length") or length, length),
                "pool_percent": 100.0 if pool is None else 100 * pool / num_samples,
            }
        )
    return found


def results_as_json(results: Iterable[RunResult]) -> str:
    """Results as a small file that can be kept beside a study, one run a line."""
    return "".join(json.dumps(asdict(result), sort_keys=True) + "\n" for result in results)


def read_results(path: Path) -> list[RunResult]:
    """What `results_as_json` wrote into a file.

    Raises:
        ValueError: naming the file, if a line is no result of a run.
        FileNotFoundError: if there is no such file.
    """
    found = []
    with files.reading(path):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            rows = {name: tuple(record[name]) for name in ("curve", "pacing")}
            found.append(RunResult(**{**record, **rows, "measure": Measure(**record["measure"])}))
    return found
