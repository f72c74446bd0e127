"""What a finished run of a study says: its losses, its costs on every axis, and all facts it ran with."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.recipes.toml_file import read_toml
from megatron.reporting import RunLog, read_log

AXES = {
    "corpus_tokens": "corpus tokens",
    "effective_tokens": "layer tokens / layers",
    "flops": "FLOPs",
    "seconds": "training seconds",
}
"""Cost -> its name on a page. FLOPs include what was spent on scores outside of the run."""
RUN_FILE = "run.toml"
STARVED_SHARE = 0.05
"""From this part of a run's time spent waiting for a core its seconds are no measure of the method."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run."""

    arm: str
    seed: int
    budget: float
    loss: float
    """Validation loss at the end, nats a token."""
    costs: Mapping[str, float]
    """Axis -> total at the end."""
    curve: tuple[Mapping[str, float], ...]
    """`loss` and the costs at each evaluation."""
    facts: Mapping[str, Any]
    """`settings` (the run file), and what the log's first line says of machine, code, data and weights."""
    waited: float | None = None
    """Share of the time spent waiting for a core; None: not known."""

    @property
    def times_count(self) -> bool:
        """Whether the seconds were taken on cores that the run had for itself."""
        return self.waited is not None and self.waited < STARVED_SHARE


def read_result(
    folder: Path, *, arm: str, seed: int, budget: float, scoring_flops: float
) -> RunResult:
    """The result in a run's folder.

    Raises:
        ValueError: if the run has not been evaluated, or its last loss is no finite number.
        FileNotFoundError: if there is no log.
    """
    log = read_log(folder)
    points = log.compared
    if not points or points[-1]["loss"] is None:
        reason = "has no evaluation" if not points else "ended with a loss that is no finite number"
        raise ValueError(f"{folder} {reason}")
    curve = tuple(
        {"loss": point["loss"], **_costs(point, scoring_flops)}
        for point in points
        if point["loss"] is not None
    )
    facts = {name: log.start.get(name) for name in ("weights", "data", "losses")}
    facts["environment"] = _environment(log)
    waits = [point["waited"] for point in points if point.get("waited") is not None]
    return RunResult(
        arm=arm,
        seed=seed,
        budget=budget,
        loss=points[-1]["loss"],
        costs=_costs(points[-1], scoring_flops),
        curve=curve,
        facts={"settings": read_toml(folder / RUN_FILE).content, **facts},
        waited=max(waits, default=None),
    )


def _environment(log: RunLog) -> Any:
    """Of the run's first process; where it went on elsewhere, of all, so that it is like no other run's."""
    first = log.start.get("environment")
    others = [record["environment"] for record in log.resumed]
    return first if all(other == first for other in others) else [first, *others]


def _costs(point: Mapping[str, Any], scoring_flops: float) -> dict[str, float]:
    return {axis: point[axis] + (scoring_flops if axis == "flops" else 0) for axis in AXES}


def results_as_json(results: Iterable[RunResult]) -> str:
    """Results as a small file that can be kept beside a study, one run a line."""
    return "".join(json.dumps(vars(result), sort_keys=True) + "\n" for result in results)


def results_from_json(text: str) -> list[RunResult]:
    """What `results_as_json` wrote."""
    records = [json.loads(line) for line in text.splitlines()]
    return [RunResult(**{**record, "curve": tuple(record["curve"])}) for record in records]
