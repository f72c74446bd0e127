"""What a finished run says: what it reached, its costs on every axis, its pacing, and all facts it ran with.

A run is one of the trainer (`log.jsonl`) or of the finetuning examples (`results.json`).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.reporting.run_log import LOG_FILE, Record, RunLog, read_log

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
RESULTS_FILE = "results.json"
"""Of a finetuning run."""
RESULT_LINES = "results.jsonl"
"""Of a report: its runs, one a line."""
STARVED_SHARE = 0.05
"""From this part of a run's time spent waiting for a core its seconds are no measure of the method."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What runs are judged by."""

    name: str = "validation loss"
    unit: str = "nats per token"
    higher_is_better: bool = False


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

    @property
    def times_count(self) -> bool:
        """Whether the seconds were taken on cores that the run had for itself."""
        return self.waited is not None and self.waited < STARVED_SHARE


def read_result(
    folder: Path, *, arm: str, budget: float = 1.0, scoring_flops: float = 0.0
) -> RunResult:
    """The result in a run's folder.

    Args:
        scoring_flops: operations spent outside of the run for it.

    Raises:
        ValueError: if it has not been evaluated, a figure is no finite number, or its file is damaged.
        FileNotFoundError: if there is no run.
    """
    if (folder / RESULTS_FILE).is_file() and not (folder / LOG_FILE).is_file():
        with files.reading(folder / RESULTS_FILE):
            return _checked(_finetuning_result(folder / RESULTS_FILE, arm, budget))
    with files.reading(folder / LOG_FILE):
        return _checked(_pretraining_result(folder, arm, budget, scoring_flops))


def _checked(found: RunResult) -> RunResult:
    """The result, if all its figures are finite numbers: ValueError otherwise, by the name of the figure."""
    end = {"value": found.value, "waited": found.waited or 0, **found.costs, **found.others}
    for name, figure in (one for row in (end, *found.curve, *found.pacing) for one in row.items()):
        if type(figure) not in (int, float) or not math.isfinite(figure):
            raise ValueError(f"{name} is {figure!r}: must be a finite number")
    return found


def _pretraining_result(folder: Path, arm: str, budget: float, scoring_flops: float) -> RunResult:
    log = read_log(folder)
    points = log.compared
    if not points or points[-1]["loss"] is None:
        reason = "has no evaluation" if not points else "ended with a loss that is no finite number"
        raise ValueError(f"{folder / LOG_FILE} {reason}")
    curve = [
        {"value": point["loss"], **_costs(point, scoring_flops)}
        for point in points
        if point["loss"] is not None
    ]
    waits = [point["waited"] for point in points if point.get("waited") is not None]
    first, *more = log.losses
    return RunResult(
        arm=arm,
        seed=_seed(log.start),
        budget=budget,
        measure=Measure(name="validation loss" if not more else f"validation {first} loss"),
        value=points[-1]["loss"],
        others={f"{name} loss": log.valid[-1][f"{name}_loss"] for name in more},
        costs={axis: curve[-1][axis] for axis in AXES},
        curve=curve,
        pacing=_pacing(log),
        facts=_facts(log),
        waited=max(waits, default=None),
    )


def read_arm(folder: Path, arm: str) -> list[RunResult]:
    """The results of a run's folder, or of a folder with a run for each seed (`seed*`).

    Raises:
        ValueError: if one has nothing to say.
        FileNotFoundError: if there is no finished run.
    """
    if any((folder / name).is_file() for name in (LOG_FILE, RESULTS_FILE)):
        return [read_result(folder, arm=arm)]
    seeds = [
        path
        for path in sorted(folder.glob("seed*"))
        if "_budget" not in path.name
        and any((path / name).is_file() for name in (LOG_FILE, RESULTS_FILE))
    ]
    if not seeds:
        raise FileNotFoundError(
            f"{folder} holds no {LOG_FILE}, no {RESULTS_FILE}, and no seed*/ with one: give a run's "
            "folder, or the folder of its seeds"
        )
    return [read_result(path, arm=arm) for path in seeds]


def _costs(point: Record, scoring_flops: float) -> dict[str, float]:
    return {axis: point[axis] + (scoring_flops if axis == "flops" else 0) for axis in AXES}


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
    return {
        "settings": settings,
        "environment": first if all(one == first for one in others) else [first, *others],
        "weights": start.get("weights"),
        "data": start.get("data"),
        "size": {"parameters": start["num_parameters"], "tokens of training data": tokens},
    }


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


def _finetuning_result(path: Path, arm: str, budget: float) -> RunResult:
    """Of a run of the finetuning examples: judged on the test part, its curve on the validation part."""
    found = files.read_json_object(path)
    name = found["quality_name"]
    curve = [
        {"value": point["validation"], **_finetuning_costs(point, found["num_layers"])}
        for point in found["history"]
        if point["steps"]
    ]
    described = found["description"]
    return RunResult(
        arm=arm,
        seed=int(described["seed"]),
        budget=budget,
        measure=Measure(name=f"test {name}", unit="", higher_is_better=name != "perplexity"),
        value=found["test"],
        others={f"validation {name}": found["validation"], "steps": found["steps"]},
        costs=_finetuning_costs(found, found["num_layers"]),
        curve=curve,
        facts={
            "settings": {"training": {k: v for k, v in described.items() if k != "data_identity"}},
            "data": described["data_identity"],
        },
    )


def _finetuning_costs(point: Mapping[str, Any], num_layers: int) -> dict[str, float]:
    return {
        "corpus_tokens": point["corpus_tokens"],
        "effective_tokens": point["layer_tokens"] / num_layers,
        "seconds": point["training_seconds"],
    }


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
