"""What runs show beside each other, as JSON data: `report_tables` writes it out.

A report says "better" only where an interval leaves out zero, compares no arms that differ in more than
they declare, and lists every run that was started.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

from data_efficiency.short_numbers import format_count
from megatron.study.data_saving import saving_factor, seeds_in_common
from megatron.study.results import AXES, RunKey, RunResult, comparable_times
from megatron.study.statistics import LEVEL, estimate, verdict

Report = dict[str, Any]
Groups = Mapping[tuple[str, float], Mapping[int, RunResult]]
"""(arm, budget) -> seed -> result."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is set beside what."""

    title: str
    arms: Sequence[str]
    """Names, in the order of the page."""
    baseline: str
    beside: Sequence[str] = ()
    """Further arms that the others are set against."""
    question: str = ""
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Arm -> what it changes, a text each."""
    refused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Arm -> in what else it differs, a sentence each: it is not compared."""


def make_report(
    comparison: Comparison, results: Sequence[RunResult], runs: Sequence[Mapping[str, Any]]
) -> Report:
    """The report.

    Args:
        results: of all finished runs.
        runs: every run, started or not: arm, seed, budget, state.

    Returns:
        JSON data: `rows` (for each arm and budget: values and costs as estimates), `comparisons` (for each
        arm beside the baseline and each of `beside`: the difference paired by seed, its verdict, cost ratios,
        saving factors), `refused`, `changes`, `runs`, `notes`.

    Raises:
        ValueError: if the runs are not judged by one measure.
    """
    measures = {one.measure for one in results}
    if len(measures) > 1:
        names = sorted(measure.name for measure in measures)
        raise ValueError(f"the runs are judged by {' and '.join(names)}: compare runs of one kind")
    groups: dict[tuple[str, float], dict[int, RunResult]] = defaultdict(dict)
    for one in results:
        groups[one.arm, one.budget][one.seed] = one
    order = sorted(groups, key=lambda key: (-key[1], comparison.arms.index(key[0])))
    timed = {one.key for one in comparable_times(results)}
    rows = [_row(arm, budget, groups[arm, budget], timed) for arm, budget in order]
    comparisons = [
        _compared(groups, base, arm, budget, timed)
        for base in (comparison.baseline, *comparison.beside)
        for arm, budget in order
        if arm not in (base, comparison.baseline)
        and not {arm, base} & {*comparison.refused}
        and {*groups[arm, budget]} & {*groups.get((base, budget), {})}
    ]
    return {
        **asdict(comparison),
        "beside": [*comparison.beside],
        "level": LEVEL,
        "measure": None if not results else asdict(results[0].measure),
        "size": _size(groups, comparison.baseline),
        "rows": rows,
        "comparisons": comparisons,
        "runs": list(runs),
        "notes": _notes(comparison, rows, comparisons, runs),
    }


def _row(
    arm: str, budget: float, found: Mapping[int, RunResult], timed: Set[RunKey]
) -> dict[str, Any]:
    """One arm's figures at one budget; its seconds are those of the runs whose seconds count, if there are any."""
    results = [*found.values()]
    with_times = [one for one in results if one.key in timed]
    return {
        "arm": arm,
        "budget": budget,
        "seeds": sorted(found),
        "value": asdict(estimate([one.value for one in results])),
        "others": {
            name: asdict(estimate([one.others[name] for one in results]))
            for name in _in_common(results)
        },
        "costs": {
            axis: asdict(estimate([one.costs[axis] for one in _counted(axis, results, with_times)]))
            for axis in results[0].costs
        },
        "timed_seeds": sorted(one.seed for one in with_times),
    }


def _counted(
    axis: str, results: Sequence[RunResult], with_times: Sequence[RunResult]
) -> Sequence[RunResult]:
    return with_times or results if axis == "seconds" else results


def _in_common(results: Sequence[RunResult]) -> list[str]:
    """Further measures that all of the runs have."""
    return [name for name in results[0].others if all(name in one.others for one in results)]


def _compared(
    groups: Groups, base_arm: str, arm: str, budget: float, timed: Set[RunKey]
) -> dict[str, Any]:
    """An arm beside another at one budget, over the seeds that both have; seconds over those of them that count."""
    own, base = groups[arm, budget], groups[base_arm, budget]
    seeds = sorted({*own} & {*base})
    difference = estimate([own[seed].value - base[seed].value for seed in seeds])
    over = {
        axis: [
            seed for seed in seeds if axis != "seconds" or {own[seed].key, base[seed].key} <= timed
        ]
        for axis in AXES
    }
    axes = [
        axis
        for axis, used in over.items()
        if used and all(part[seed].costs.get(axis) for part in (own, base) for seed in used)
    ]
    return {
        "arm": arm,
        "beside": base_arm,
        "budget": budget,
        "seeds": seeds,
        "difference": asdict(difference),
        "verdict": verdict(difference, higher_is_better=own[seeds[0]].measure.higher_is_better),
        "others": {
            name: asdict(
                estimate([own[seed].others[name] - base[seed].others[name] for seed in seeds])
            )
            for name in _in_common([part[seed] for part in (own, base) for seed in seeds])
        },
        "cost_ratios": {
            axis: asdict(
                estimate([own[seed].costs[axis] / base[seed].costs[axis] for seed in over[axis]])
            )
            for axis in axes
        },
        "saving_factors": {
            axis: _saving(groups, base_arm, arm, budget, axis, timed) for axis in axes
        },
    }


def _saving(
    groups: Groups, base_arm: str, arm: str, budget: float, axis: str, timed: Set[RunKey]
) -> Any:
    """The saving factor on an axis as JSON data; where there is none, why."""

    def counts(one: RunResult) -> bool:
        return axis != "seconds" or one.key in timed

    results = groups[arm, budget]
    sign = -1 if next(iter(results.values())).measure.higher_is_better else 1
    curve: dict[int, dict[float, tuple[float, float]]] = defaultdict(dict)
    for (name, share), found in groups.items():
        if name == base_arm:
            for seed, one in found.items():
                if counts(one):
                    curve[seed][share] = (one.costs[axis], sign * one.value)
    own = {
        seed: (one.costs[axis], sign * one.value) for seed, one in results.items() if counts(one)
    }
    try:
        return asdict(saving_factor(seeds_in_common(curve, own)))
    except ValueError as error:
        return str(error)


def _size(groups: Groups, base_arm: str) -> str:
    """The baseline's parameters and data in words."""
    for (arm, _), found in groups.items():
        if arm == base_arm:
            size = next(iter(found.values())).facts.get("size") or {}
            return ", ".join(f"{format_count(number)} {what}" for what, number in size.items())
    return ""


def _notes(
    comparison: Comparison,
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> list[str]:
    notes = []
    if min((len(row["seeds"]) for row in rows), default=0) < 2:
        notes.append(
            "One seed of an arm proves nothing: another seed alone may move the result by as much as "
            "the arms differ. Two seeds give an interval; five or more show differences near the spread."
        )
    elif len(comparisons) > 1:
        notes.append(
            f"{len(comparisons)} comparisons at {100 * LEVEL:.0f} % each: where nothing is true, one in "
            f"{round(1 / (1 - LEVEL))} is called better or worse by chance."
        )
    if any(not row["timed_seeds"] for row in rows):
        notes.append(
            "Seconds marked * were taken while other work had the cores, or where nobody measured "
            "that, or on another machine: they measure no method and are not compared."
        )
    if any(0 < len(row["timed_seeds"]) < len(row["seeds"]) for row in rows):
        notes.append(
            "Seconds with a number of seeds behind them are of the runs that had their cores for themselves, "
            "on one machine; they are compared where both runs of a pair had."
        )
    missing = [run for run in runs if run["state"] != "finished"]
    if missing:
        notes.append(f"{len(missing)} of {len(runs)} runs have no result: see the list.")
    found = {row["arm"] for row in rows}
    notes += [f"Arm {arm} has no finished run." for arm in comparison.arms if arm not in found]
    return notes
