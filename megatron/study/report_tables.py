"""A report's pages in Markdown."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from data_efficiency.short_numbers import format_count
from megatron.study.data_saving import Saving
from megatron.study.report import Report
from megatron.study.results import AXES
from megatron.study.statistics import Estimate


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
            mark = _mark(row) if axis == "seconds" else ""
            cells.append(format_count(row["costs"][axis]["mean"]) + mark)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mark(row: Mapping[str, Any]) -> str:
    """What stands behind a row's seconds that are not those of all of its runs."""
    timed, all_of = len(row["timed_seeds"]), len(row["seeds"])
    return "*" if not timed else "" if timed == all_of else f" ({timed} of {all_of})"


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
        cells += [_ratio_cell(one, axis) for axis in axes]
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
            cells = [_saving_cell(one, axis) for axis in axes]
            lines.append(f"| {' | '.join([one['arm'], format(one['budget'], 'g'), *cells])} |")
    return lines


def _ratio_cell(one: Mapping[str, Any], axis: str) -> str:
    """A cost as a part of the other arm's; of seconds, which alone are measured, the interval and how many seeds."""
    if axis not in one["cost_ratios"]:
        return "–"
    ratio = Estimate(**one["cost_ratios"][axis])
    text = f"{ratio.mean:.3f}x"
    if axis == "seconds" and ratio.half_width is not None:
        text += f" ± {ratio.half_width:.3f}"
    all_of = len(one["seeds"])
    return text if ratio.num_seeds == all_of else f"{text} ({ratio.num_seeds} of {all_of})"


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


def _saving_cell(one: Mapping[str, Any], axis: str) -> str:
    """A saving factor, its interval, and of how many seeds it is where it is not of all of the comparison."""
    found = one["saving_factors"].get(axis)
    if not isinstance(found, Mapping):
        return "–"
    saving = Saving(**found)
    text = f"{saving.factor:.2f}x"
    if saving.bound:
        text = f"{saving.bound} {text}"
    elif saving.low is not None:
        text += f" [{saving.low:.2f}, {saving.high:.2f}]"
    if saving.num_seeds != len(one["seeds"]):
        text += f" ({saving.num_seeds} of {len(one['seeds'])})"
    return f"{text} (beyond the budgets)" if saving.extrapolated and not saving.bound else text


def format_estimate(found: Estimate, *, signed: bool = False) -> str:
    """A mean with its interval.

    Example:
        >>> from megatron.study.statistics import estimate
        >>> format_estimate(estimate([1.0, 2.0, 3.0])), format_estimate(estimate([0.5]), signed=True)
        ('2.0000 ± 2.4841', '+0.5000')
    """
    mean = f"{found.mean:+.4f}" if signed else f"{found.mean:.4f}"
    return mean if found.half_width is None else f"{mean} ± {found.half_width:.4f}"
