"""A study's picture: what each arm reached for its tokens, operations and time, with bands, and the differences."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megatron.reporting.picture import GREY, line_styles, new_figure, tidy_axes
from megatron.study.report import Report
from megatron.study.results import AXES, RunResult
from megatron.study.statistics import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 60
"""Of a band, where seeds were evaluated at other costs."""
SHOWN_AXES = ("corpus_tokens", "flops", "seconds")


def plot_study(report: Report, results: Sequence[RunResult], path: str | Path) -> None:
    """Draw each arm's validation loss at its largest budget, and the paired differences, into a PNG file.

    Bands are the intervals of the mean over the seeds; one seed has a line alone. Arms that the report
    refuses are not drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure = new_figure()
    arms = _arms(report, results)
    styles = line_styles(list(arms), report["baseline"])
    grid = figure.add_gridspec(3, 6, height_ratios=(0.14, 1.5, 1))
    panels = [figure.add_subplot(grid[1, column : column + 2]) for column in (0, 2, 4)]
    for axes, axis in zip(panels, SHOWN_AXES, strict=True):
        for arm, found in arms.items():
            _draw_band(axes, [one.curve for one in found], axis, styles[arm])
        tidy_axes(axes)
        axes.set_xlabel(AXES[axis])
        axes.set_xlim(left=0)
        axes.set_ylim(_limits(arms))
    panels[0].set_ylabel("validation loss (nats per token)")
    if not all(arm["times_count"] for arm in report["arms"]):
        panels[2].set_title("taken beside other work: no measure", color=GREY, fontsize=9)
    _draw_differences(figure.add_subplot(grid[2, :]), report, styles)
    _draw_heading(figure.add_subplot(grid[0, :]), report, arms, styles)
    figure.savefig(path, dpi=150)


def _arms(report: Report, results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Arm -> its runs at its largest budget, in the report's order, the baseline first."""
    largest: dict[str, float] = defaultdict(float)
    for one in results:
        largest[one.arm] = max(largest[one.arm], one.budget)
    found: dict[str, list[RunResult]] = {report["baseline"]: []}
    for one in results:
        if one.budget == largest[one.arm] and one.arm not in report["refused"]:
            found.setdefault(one.arm, []).append(one)
    return {arm: runs for arm, runs in found.items() if runs}


def _draw_band(
    axes: "Axes",
    curves: Sequence[Sequence[Mapping[str, float]]],
    axis: str,
    style: Mapping[str, Any],
) -> None:
    """Mean over the seeds and its interval, each seed's curve read off at the same costs."""
    costs = [np.array([point[axis] for point in curve]) for curve in curves]
    losses = [np.array([point["loss"] for point in curve]) for curve in curves]
    start, end = max(cost[0] for cost in costs), min(cost[-1] for cost in costs)
    if len(costs) == 1 or start >= end:
        places = costs[0]
        rows = losses[:1]
    else:
        places = np.linspace(start, end, POINTS)
        rows = [np.interp(places, *pair) for pair in zip(costs, losses, strict=True)]
    means = np.mean(rows, axis=0)
    axes.plot(places, means, **{**style, "linewidth": 0.6 * style["linewidth"]})
    if len(rows) > 1:
        halves = [estimate([float(row[i]) for row in rows]).half_width for i in range(len(places))]
        band = np.array(halves, float)
        axes.fill_between(
            places,
            means - band,
            means + band,
            color=style["color"],
            alpha=0.18,
            linewidth=0,
            zorder=style["zorder"] - 0.5,
        )


def _limits(arms: Mapping[str, Sequence[RunResult]]) -> tuple[float, float]:
    """Ends of the loss axis, without the steep fall at the beginning."""
    losses = [sorted(point["loss"] for point in one.curve) for runs in arms.values() for one in runs]
    lowest = min(each[0] for each in losses)
    upper = max(each[-2] if len(each) > 2 else each[-1] for each in losses)
    margin = max(0.02, 0.06 * (upper - lowest))
    return lowest - margin, upper + margin


def _draw_differences(
    axes: "Axes", report: Report, styles: Mapping[str, Mapping[str, Any]]
) -> None:
    """A line for each comparison: where the difference to the baseline lies."""
    rows = report["comparisons"]
    for place, one in enumerate(rows):
        found = Estimate(**one["difference"])
        colour = styles[one["arm"]]["color"]
        if found.low is not None:
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=3)
        axes.plot([found.mean], [place], "o", color=colour, markersize=8, markeredgecolor="white")
    axes.axvline(0, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_yticks(
        range(len(rows)), [f"{one['arm']} ({one['budget']:g}): {one['verdict']}" for one in rows]
    )
    axes.invert_yaxis()
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.set_xlabel(
        f"difference to {report['baseline']} in validation loss, paired by seed, "
        f"{100 * report['level']:.0f} % interval (left is better)"
    )


def _draw_heading(
    axes: "Axes",
    report: Report,
    arms: Mapping[str, Sequence[RunResult]],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    axes.set_axis_off()
    axes.set_title(report["title"], fontsize=13, pad=0)
    for arm, style in styles.items():
        found = estimate([one.loss for one in arms[arm]])
        spread = "" if found.half_width is None else f" ± {found.half_width:.3f}"
        axes.plot([], [], label=f"{arm}: {found.mean:.3f}{spread} (n={found.num_seeds})", **style)
    axes.legend(
        loc="center",
        bbox_to_anchor=(0.5, 0.2),
        ncols=min(len(styles), 4),
        frameon=False,
        fontsize=10,
    )
