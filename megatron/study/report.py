"""What a study shows: one report as JSON data, and the same as Markdown.

A report says "better" only where an interval leaves out zero, compares no arms that differ in more than
they declare, and lists every run that was started.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from megatron.reporting.progress_line import format_count
from megatron.study.data_saving import Saving, saving_factor, seeds_in_common
from megatron.study.fairness import changes, hidden_differences
from megatron.study.results import AXES, RunResult
from megatron.study.statistics import LEVEL, Estimate, estimate, verdict
from megatron.study.study_file import Settings, Study

Report = dict[str, Any]
By = Mapping[tuple[str, float], Mapping[int, RunResult]]
"""(arm, budget) -> seed -> result."""


def study_report(
    study: Study, results: Sequence[RunResult], base: Settings, runs: Sequence[Mapping[str, Any]]
) -> Report:
    """The report.

    Args:
        results: of all finished runs.
        base: settings that the arms change.
        runs: every run of the study, started or not: arm, seed, budget, state.

    Returns:
        JSON data: `arms` (for each budget: loss and costs as estimates), `comparisons` (for each arm and
        budget: the difference paired by seed, its verdict, cost ratios, saving factors), `refused` (arm ->
        what differs without being declared), `changes`, `runs`, `notes`.
    """
    refused = hidden_differences(study, results)
    groups: dict[tuple[str, float], dict[int, RunResult]] = defaultdict(dict)
    for one in results:
        groups[one.arm, one.budget][one.seed] = one
    arms = [
        {
            "arm": arm,
            "title": study.arms[arm].title or arm,
            "budget": budget,
            "seeds": sorted(found),
            "loss": asdict(estimate([one.loss for one in found.values()])),
            "costs": {
                axis: asdict(estimate([one.costs[axis] for one in found.values()])) for axis in AXES
            },
            "times_count": all(one.times_count for one in found.values()),
        }
        for (arm, budget), found in sorted(groups.items(), key=lambda item: _order(study, item[0]))
    ]
    comparisons = [
        _comparison(study, groups, arm, budget)
        for arm, budget in sorted(groups, key=lambda key: _order(study, key))
        if arm != study.baseline
        and arm not in refused
        and study.baseline not in refused
        and {*groups[arm, budget]} & {*groups.get((study.baseline, budget), {})}
    ]
    return {
        "title": study.title or study.path.stem,
        "question": study.question,
        "baseline": study.baseline,
        "level": LEVEL,
        "arms": arms,
        "comparisons": comparisons,
        "refused": refused,
        "changes": {name: changes(arm, base) for name, arm in study.arms.items()},
        "runs": list(runs),
        "notes": _notes(study, arms, comparisons, runs),
    }


def _order(study: Study, key: tuple[str, float]) -> tuple[float, int]:
    """By falling budget, then as the study file names the arms."""
    return -key[1], list(study.arms).index(key[0])


def _comparison(study: Study, groups: By, arm: str, budget: float) -> dict[str, Any]:
    """An arm beside the baseline at one budget, over the seeds that both have."""
    own, base = groups[arm, budget], groups[study.baseline, budget]
    seeds = sorted({*own} & {*base})
    difference = estimate([own[seed].loss - base[seed].loss for seed in seeds])
    times_count = all(one.times_count for part in (own, base) for one in part.values())
    axes = [axis for axis in AXES if axis != "seconds" or times_count]
    return {
        "arm": arm,
        "budget": budget,
        "seeds": seeds,
        "difference": asdict(difference),
        "verdict": verdict(difference),
        "cost_ratios": {
            axis: asdict(
                estimate([own[seed].costs[axis] / base[seed].costs[axis] for seed in seeds])
            )
            for axis in axes
            if all(base[seed].costs[axis] for seed in seeds)
        },
        "saving_factors": {axis: _saving(study, groups, arm, budget, axis) for axis in axes},
    }


def _saving(study: Study, groups: By, arm: str, budget: float, axis: str) -> Any:
    """The saving factor on an axis as JSON data; where there is none, why."""
    curve: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for (name, _), found in groups.items():
        if name == study.baseline:
            for seed, one in found.items():
                curve[seed].append((one.costs[axis], one.loss))
    own = {
        seed: (one.costs[axis], one.loss) for seed, one in groups[arm, budget].items()
    }
    try:
        return asdict(saving_factor(seeds_in_common(curve, own)))
    except ValueError as error:
        return str(error)


def _notes(
    study: Study,
    arms: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> list[str]:
    notes = []
    fewest = min((len(arm["seeds"]) for arm in arms), default=0)
    if fewest < 2:
        notes.append(
            "One seed of an arm proves nothing: another seed alone may move the loss by as much as the "
            "arms differ. Give two seeds at the least, five or more to see differences near the spread."
        )
    elif len(comparisons) > 1:
        notes.append(
            f"{len(comparisons)} comparisons at {100 * LEVEL:.0f} % each: where nothing is true, one in "
            f"{round(1 / (1 - LEVEL))} is called better or worse by chance."
        )
    if not all(arm["times_count"] for arm in arms):
        notes.append(
            "Seconds marked * were taken while other work had the cores, or where the system does not "
            "tell: they measure no method and are not compared."
        )
    missing = [run for run in runs if run["state"] != "finished"]
    if missing:
        notes.append(f"{len(missing)} of {len(runs)} runs have not finished: see the list.")
    lost = {arm for arm in study.arms if arm not in {found["arm"] for found in arms}}
    notes += [f"Arm {arm} has no finished run." for arm in study.arms if arm in lost]
    return notes


def format_report(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {report['title']}", ""]
    if report["question"]:
        lines += [report["question"], ""]
    lines += _arm_table(report) + [""] + _comparison_table(report)
    for arm, sentences in report["refused"].items():
        lines += ["", f"**{arm} is not compared**: it differs in more than the study file declares."]
        lines += [f"- {sentence}" for sentence in sentences]
    lines += ["", "What each arm changes in the base:", ""]
    for arm, found in report["changes"].items():
        lines += [f"- {arm}: {'; '.join(found) or 'nothing'}"]
    lines += ["", *(f"> {note}\n" for note in report["notes"])]
    lines += [
        f"Runs: {_count(report['runs'])}.",
        *(
            f"- {run['arm']}, seed {run['seed']}, budget {run['budget']:g}: {run['state']}"
            for run in report["runs"]
            if run["state"] != "finished"
        ),
    ]
    return "\n".join(lines) + "\n"


def _count(runs: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for run in runs:
        counts[run["state"]] += 1
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "none"


def _arm_table(report: Report) -> list[str]:
    lines = [
        f"| arm | budget | seeds | validation loss | {' | '.join(AXES.values())} |",
        "|---" * (4 + len(AXES)) + "|",
    ]
    for arm in report["arms"]:
        cells = [arm["title"], f"{arm['budget']:g}", str(len(arm["seeds"]))]
        cells.append(format_estimate(Estimate(**arm["loss"])))
        for axis in AXES:
            mark = "*" if axis == "seconds" and not arm["times_count"] else ""
            cells.append(format_count(arm["costs"][axis]["mean"]) + mark)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _comparison_table(report: Report) -> list[str]:
    if not report["comparisons"]:
        return ["No arm can be compared with the baseline yet."]
    level = f"{100 * report['level']:.0f} %"
    lines = [
        f"Beside the baseline ({report['baseline']}), paired by seed, with {level} intervals. A saving "
        "factor of 1.3 says that the baseline would need 1.3 times the arm's cost for the arm's loss.",
        "",
        f"| arm | budget | difference | verdict | {' | '.join(f'saves {a}' for a in AXES.values())} |",
        "|---" * (4 + len(AXES)) + "|",
    ]
    for one in report["comparisons"]:
        cells = [one["arm"], f"{one['budget']:g}"]
        cells.append(format_estimate(Estimate(**one["difference"]), signed=True))
        cells.append(f"**{one['verdict']}**" if one["verdict"] != "undecided" else "undecided")
        cells += [_saving_cell(one["saving_factors"].get(axis)) for axis in AXES]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _saving_cell(found: Any) -> str:
    if not isinstance(found, Mapping):
        return "–"
    saving = Saving(**found)
    text = f"{saving.bound} {saving.factor:.2f}x".strip()
    if saving.low is not None and not saving.bound:
        text += f" [{saving.low:.2f}, {saving.high:.2f}]"
    return f"{text} (beyond the budgets)" if saving.extrapolated and not saving.bound else text


def format_estimate(found: Estimate, *, signed: bool = False) -> str:
    """A mean with its interval.

    Example:
        >>> format_estimate(estimate([1.0, 2.0, 3.0])), format_estimate(estimate([0.5]), signed=True)
        ('2.0000 ± 2.4841', '+0.5000')
    """
    mean = f"{found.mean:+.4f}" if signed else f"{found.mean:.4f}"
    return mean if found.half_width is None else f"{mean} ± {found.half_width:.4f}"
