"""What runs show beside each other: one report as JSON data, and the same as Markdown.

A report says "better" only where an interval leaves out zero, compares no arms that differ in more than
they declare, and lists every run that was started.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_efficiency.short_numbers import format_count
from megatron.study.data_saving import Saving, saving_factor, seeds_in_common
from megatron.study.results import AXES, RunResult
from megatron.study.statistics import LEVEL, Estimate, estimate, verdict

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
    rows = [_row(arm, budget, groups[arm, budget]) for arm, budget in order]
    comparisons = [
        _compared(groups, base, arm, budget)
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


def _row(arm: str, budget: float, found: Mapping[int, RunResult]) -> dict[str, Any]:
    """One arm's figures at one budget."""
    results = [*found.values()]
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
            axis: asdict(estimate([one.costs[axis] for one in results]))
            for axis in results[0].costs
        },
        "times_count": all(one.times_count for one in results),
    }


def _in_common(results: Sequence[RunResult]) -> list[str]:
    """Further measures that all of the runs have."""
    return [name for name in results[0].others if all(name in one.others for one in results)]


def _compared(groups: Groups, base_arm: str, arm: str, budget: float) -> dict[str, Any]:
    """An arm beside another at one budget, over the seeds that both have."""
    own, base = groups[arm, budget], groups[base_arm, budget]
    seeds = sorted({*own} & {*base})
    difference = estimate([own[seed].value - base[seed].value for seed in seeds])
    times_count = all(one.times_count for part in (own, base) for one in part.values())
    axes = [
        axis
        for axis in AXES
        if (axis != "seconds" or times_count)
        and all(part[seed].costs.get(axis) for part in (own, base) for seed in seeds)
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
                estimate([own[seed].costs[axis] / base[seed].costs[axis] for seed in seeds])
            )
            for axis in axes
        },
        "saving_factors": {axis: _saving(groups, base_arm, arm, budget, axis) for axis in axes},
    }


def _saving(groups: Groups, base_arm: str, arm: str, budget: float, axis: str) -> Any:
    """The saving factor on an axis as JSON data; where there is none, why."""
    results = groups[arm, budget]
    sign = -1 if next(iter(results.values())).measure.higher_is_better else 1
    curve: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (name, _), found in groups.items():
        if name == base_arm:
            for seed, one in found.items():
                curve[seed].append((one.costs[axis], sign * one.value))
    own = {seed: (one.costs[axis], sign * one.value) for seed, one in results.items()}
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
    if not all(row["times_count"] for row in rows):
        notes.append(
            "Seconds marked * were taken while other work had the cores, or where nobody measured "
            "that: they measure no method and are not compared."
        )
    missing = [run for run in runs if run["state"] != "finished"]
    if missing:
        notes.append(f"{len(missing)} of {len(runs)} runs have no result: see the list.")
    found = {row["arm"] for row in rows}
    notes += [f"Arm {arm} has no finished run." for arm in comparison.arms if arm not in found]
    return notes


def format_report(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {report['title']}", ""]
    lines += [text for part in (report["question"], report["size"]) if part for text in (part, "")]
    lines += [*_row_table(report), "", *_comparison_table(report)]
    for arm, sentences in report["refused"].items():
        lines += ["", f"**{arm} is not compared**: it differs in more than is declared.", ""]
        lines += [f"- {sentence}" for sentence in sentences]
    if report["changes"]:
        lines += ["", "What each arm changes:", ""]
        lines += [f"- {arm}: {'; '.join(of) or 'nothing'}" for arm, of in report["changes"].items()]
    lines += ["", *(f"> {note}\n" for note in report["notes"])]
    lines += [f"Runs: {_count(report['runs'])}."]
    lines += [
        f"- {run['arm']}, seed {run['seed']}, budget {run['budget']:g}: {run['state']}"
        + (f" ({run['reason']})" if "reason" in run else "")
        for run in report["runs"]
        if run["state"] != "finished"
    ]
    return "\n".join(lines) + "\n"


def _count(runs: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for run in runs:
        counts[run["state"]] += 1
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "none"


def _row_table(report: Report) -> list[str]:
    rows = report["rows"]
    if not rows:
        return ["No run has finished."]
    others = list(dict.fromkeys(name for row in rows for name in row["others"]))
    axes = [axis for axis in AXES if axis in rows[0]["costs"]]
    better = "higher" if report["measure"]["higher_is_better"] else "lower"
    heads = ["arm", "budget", "seeds", f"{report['measure']['name']} ({better} is better)", *others]
    lines = _table_head([*heads, *(AXES[axis] for axis in axes)])
    for row in rows:
        cells = [row["arm"], f"{row['budget']:g}", str(len(row["seeds"]))]
        cells += [_cell(each) for each in (row["value"], *map(row["others"].get, others))]
        for axis in axes:
            mark = "*" if axis == "seconds" and not row["times_count"] else ""
            cells.append(format_count(row["costs"][axis]["mean"]) + mark)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _comparison_table(report: Report) -> list[str]:
    if not report["comparisons"]:
        return ["No arm can be compared with the baseline yet."]
    lines: list[str] = []
    for base in (report["baseline"], *report["beside"]):
        comparisons = [one for one in report["comparisons"] if one["beside"] == base]
        if comparisons:
            lines += ["", *_tables_beside(base, comparisons, report["level"])]
    return lines[1:]


def _tables_beside(base: str, comparisons: Sequence[Mapping[str, Any]], level: float) -> list[str]:
    """Differences to one arm, and saving factors by its budgets."""
    axes = [axis for axis in AXES if any(axis in one["cost_ratios"] for one in comparisons)]
    saves = any(
        isinstance(each, dict) for one in comparisons for each in one["saving_factors"].values()
    )
    lines = [
        f"Beside {base}, paired by seed, with {100 * level:.0f} % intervals; costs as parts of its own.",
        "",
        *_table_head(["arm", "budget", "difference", "verdict", *(AXES[axis] for axis in axes)]),
    ]
    for one in comparisons:
        decided = one["verdict"] != "undecided"
        cells = [one["arm"], f"{one['budget']:g}"]
        cells.append(format_estimate(Estimate(**one["difference"]), signed=True))
        cells.append(f"**{one['verdict']}**" if decided else "undecided")
        ratios = [one["cost_ratios"].get(axis) for axis in axes]
        cells += ["–" if ratio is None else f"{ratio['mean']:.3f}x" for ratio in ratios]
        lines.append(f"| {' | '.join(cells)} |")
    lines += _others_table(comparisons)
    if saves:
        lines += [
            "",
            f"Saving factors: 1.3 says that {base} needs 1.3 times the arm's cost for the arm's result, from "
            "its own budgets.",
            "",
            *_table_head(["arm", "budget", *(AXES[axis] for axis in axes)]),
        ]
        for one in comparisons:
            cells = [_saving_cell(one["saving_factors"].get(axis)) for axis in axes]
            lines.append(f"| {' | '.join([one['arm'], format(one['budget'], 'g'), *cells])} |")
    return lines


def _others_table(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Differences in further measures, of which none is called better."""
    names = list(dict.fromkeys(name for one in comparisons for name in one["others"]))
    if not names:
        return []
    lines = ["", "Differences in further measures, likewise:", ""]
    lines += _table_head(["arm", "budget", *names])
    for one in comparisons:
        cells = [_cell(one["others"].get(name), signed=True) for name in names]
        lines.append(f"| {' | '.join([one['arm'], format(one['budget'], 'g'), *cells])} |")
    return lines


def _cell(found: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    return "–" if found is None else format_estimate(Estimate(**found), signed=signed)


def format_cases(reports: Mapping[str, Report], setting: str) -> str:
    """What the reports of several cases show beside each other: a row an arm at the full budget.

    Args:
        reports: case -> its report.
        setting: whose values the cases are.
    """
    best: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for case, report in reports.items():
        for row in report["rows"]:
            if row["budget"] == 1:
                found[row["arm"]][case] = row["value"]
        values = [values[case] for values in found.values() if case in values]
        if values:
            better = max if report["measure"]["higher_is_better"] else min
            best[case] = better(values, key=lambda value: value["mean"])
    columns = [
        case if report["measure"] is None else f"{case} ({report['measure']['name']})"
        for case, report in reports.items()
    ]
    lines = _table_head([f"arm, by {setting}", *columns, "mean"])
    for arm, by_case in {**found, "best of each": best}.items():
        means = [value["mean"] for value in by_case.values()]
        mean = f"{sum(means) / len(means):.4f}" if len(means) == len(reports) else "–"
        cells = [_cell(by_case.get(case)) for case in reports]
        lines.append(f"| {' | '.join([arm, *cells, mean])} |")
    lines += [
        "",
        '"best of each" was chosen by the numbers that it shows, which are therefore too good.',
    ]
    return "\n".join(lines) + "\n"


def _table_head(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def _saving_cell(found: Any) -> str:
    if not isinstance(found, Mapping):
        return "–"
    saving = Saving(**found)
    if saving.bound:
        return f"{saving.bound} {saving.factor:.2f}x"
    text = f"{saving.factor:.2f}x"
    if saving.low is not None:
        text += f" [{saving.low:.2f}, {saving.high:.2f}]"
    return f"{text} (beyond the budgets)" if saving.extrapolated else text


def format_estimate(found: Estimate, *, signed: bool = False) -> str:
    """A mean with its interval.

    Example:
        >>> format_estimate(estimate([1.0, 2.0, 3.0])), format_estimate(estimate([0.5]), signed=True)
        ('2.0000 ± 2.4841', '+0.5000')
    """
    mean = f"{found.mean:+.4f}" if signed else f"{found.mean:.4f}"
    return mean if found.half_width is None else f"{mean} ± {found.half_width:.4f}"
