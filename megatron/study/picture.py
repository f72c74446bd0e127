"""One picture of what runs reached for their tokens, operations and time, how they were paced, and what differs.

The colours are such that colour-blind readers can tell them apart. The baseline is the widest line,
each further arm's is narrower and lies above it, so that curves that coincide stay visible.

Source: Okabe and Ito, Color Universal Design (2008), and Tol, Colour Schemes (2021): the colours.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_efficiency.picture import (
    BASELINE_COLOUR,
    COLOURS,
    GREY,
    NARROWEST,
    WIDEST,
    new_figure,
    tidy_axes,
)
from megatron.study.band import band_of
from megatron.study.report import Report
from megatron.study.results import AXES, PACINGS, RunResult
from megatron.study.statistics import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arms = Mapping[str, Sequence[RunResult]]
Styles = Mapping[str, Mapping[str, Any]]


def plot_report(report: Report, results: Sequence[RunResult], path: str | Path) -> None:
    """Draw each arm at the largest budget that all have finished: curves, pacing, differences, into a PNG file.

    Bands are the intervals of the mean over the seeds; one seed has a line alone. Arms that the report
    refuses are not drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: if there is no result to draw.
    """
    arms = _arms(report, results)
    if not arms:
        raise ValueError("no run has finished: there is nothing to draw")
    styles = _styles(list(arms), report["baseline"])
    shown = [
        axis for axis in AXES if all(axis in one.costs for runs in arms.values() for one in runs)
    ]
    is_paced = all(one.pacing for runs in arms.values() for one in runs)
    figure = new_figure()
    grid = figure.add_gridspec(
        4, 12, height_ratios=(0.16, 1.6, 0.9 if is_paced else 0.01, 0.2 + 0.12 * len(arms))
    )
    shown = shown[-3:]
    width = 12 // len(shown)
    panels = [
        figure.add_subplot(grid[1, width * place : width * (place + 1)])
        for place in range(len(shown))
    ]
    for axes, axis in zip(panels, shown, strict=True):
        for arm, runs in arms.items():
            _draw_band(axes, [one.curve for one in runs], axis, styles[arm])
        tidy_axes(axes)
        axes.set(xlabel=AXES[axis], ylim=_limits(arms))
        axes.set_xlim(left=0)
        if axis == "seconds" and any(row["timed_seeds"] != row["seeds"] for row in report["rows"]):
            axes.set_title("some taken beside other work, or not known: no measure", fontsize=9)
    measure = report["measure"]
    panels[0].set_ylabel(
        f"{measure['name']} ({measure['unit']})" if measure["unit"] else measure["name"]
    )
    for place, (name, title) in enumerate(PACINGS.items() if is_paced else ()):
        axes = figure.add_subplot(grid[2, 4 * place : 4 * (place + 1)])
        _draw_pacing(axes, arms, styles, name)
        axes.set_title(title, fontsize=10)
    if report["comparisons"]:
        _draw_differences(figure.add_subplot(grid[3, :]), report, styles)
    _draw_heading(figure.add_subplot(grid[0, :]), report, arms, styles)
    figure.savefig(path, dpi=150)


def _arms(report: Report, results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Arm -> its runs at the largest budget that all have finished, else at its own; the baseline first."""
    budgets: dict[str, set[float]] = defaultdict(set)
    for one in results:
        if one.arm not in report["refused"]:
            budgets[one.arm].add(one.budget)
    common = set.intersection(*budgets.values()) if budgets else set()
    largest = {arm: max(common or own) for arm, own in budgets.items()}
    found: dict[str, list[RunResult]] = {report["baseline"]: []}
    for arm in report["arms"]:
        if arm not in report["refused"]:
            found[arm] = [one for one in results if one.arm == arm and one.budget == largest[arm]]
    return {arm: runs for arm, runs in found.items() if runs}


def _styles(names: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Colour, width and place above each other of each arm's lines."""
    styles: dict[str, dict[str, Any]] = {
        baseline: {"color": BASELINE_COLOUR, "linewidth": WIDEST, "zorder": 2}
    }
    others = [name for name in names if name != baseline]
    for number, name in enumerate(others):
        styles[name] = {
            "color": COLOURS[number % len(COLOURS)],
            "linewidth": WIDEST - (WIDEST - NARROWEST) * (number + 1) / len(others),
            "zorder": 3 + number,
        }
    return {name: styles[name] for name in names}


def _draw_band(
    axes: "Axes",
    curves: Sequence[Sequence[Mapping[str, float]]],
    axis: str,
    style: Mapping[str, Any],
) -> None:
    """Mean over the seeds and its interval."""
    found = band_of(curves, axis)
    line = {**style, "linewidth": 0.7 * style["linewidth"]}
    axes.plot(found.places, found.means, solid_capstyle="butt", **line)
    axes.plot(
        found.places[-1:],
        found.means[-1:],
        marker="o",
        markersize=7,
        markeredgecolor="white",
        color=style["color"],
        zorder=10,
    )
    if found.half_widths is not None:
        axes.fill_between(
            found.places,
            found.means - found.half_widths,
            found.means + found.half_widths,
            color=style["color"],
            alpha=0.18,
            linewidth=0,
            zorder=style["zorder"] - 0.5,
        )


def _limits(arms: Arms) -> tuple[float, float]:
    """Ends of the value's axis: the first tenth of each curve, a steep fall, is left out of view."""
    values = [[point["value"] for point in one.curve] for runs in arms.values() for one in runs]
    later = [each[min(len(each) - 1, math.ceil(len(each) / 10)) :] for each in values]
    lowest, highest = min(map(min, later)), max(map(max, later))
    margin = max(0.02, 0.08 * (highest - lowest))
    return lowest - margin, highest + margin


def _draw_pacing(axes: "Axes", arms: Arms, styles: Styles, name: str) -> None:
    """One pacing curve an arm, of its first seed, against the step."""
    for arm, runs in arms.items():
        points = runs[0].pacing
        axes.plot(
            [point["step"] for point in points],
            [point[name] for point in points],
            drawstyle="steps-post",
            solid_capstyle="butt",
            **styles[arm],
        )
    tidy_axes(axes)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def _draw_differences(axes: "Axes", report: Report, styles: Styles) -> None:
    """A line for each comparison: where the difference to the baseline lies."""
    rows = [one for one in report["comparisons"] if one["beside"] == report["baseline"]]
    for place, one in enumerate(rows):
        found = Estimate(**one["difference"])
        colour = styles[one["arm"]]["color"]
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=3)
        axes.plot([found.mean], [place], "o", color=colour, markersize=8, markeredgecolor="white")
    axes.axvline(0, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    names = [one["arm"] + ("" if one["budget"] == 1 else f" x{one['budget']:g}") for one in rows]
    axes.set_yticks(
        range(len(rows)),
        [f"{name}: {one['verdict']}" for name, one in zip(names, rows, strict=True)],
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.set_xlabel(
        f"difference to {report['baseline']} in {report['measure']['name']}, paired by seed, with its "
        f"{100 * report['level']:.0f} % interval"
    )


def _draw_heading(axes: "Axes", report: Report, arms: Arms, styles: Styles) -> None:
    """Title, and one legend for all panels with what each arm reached."""
    one_seed = min(len(runs) for runs in arms.values()) < 2
    size = f"{report['size']}; " if report["size"] else ""
    note = (
        "one seed an arm: a picture of the method, not evidence" if one_seed else "bands: intervals"
    )
    budgets = {one.budget for runs in arms.values() for one in runs} - {1.0}
    part = "".join(f"at {budget:g} of the budget; " for budget in sorted(budgets)[:1])
    axes.set_axis_off()
    axes.set_title(f"{report['title']}\n{size}{part}{note}", fontsize=12, pad=0)
    for arm, style in styles.items():
        found = estimate([one.value for one in arms[arm]])
        spread = "" if found.half_width is None else f" ± {found.half_width:.3f}"
        axes.plot([], [], label=f"{arm}: {found.mean:.3f}{spread} (n={found.num_seeds})", **style)
    axes.legend(
        loc="center",
        bbox_to_anchor=(0.5, 0.2),
        ncols=min(len(styles), 3),
        frameon=False,
        fontsize=10,
    )
