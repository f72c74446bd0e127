"""One picture of several runs: what they reached for their tokens and time, and how they were paced.

The colours are such that colour-blind readers can tell them apart. The baseline is the widest line,
each further run's is narrower and lies above it, so that curves that coincide stay visible.

Source: Okabe and Ito, Color Universal Design (2008), and Tol, Colour Schemes (2021): the colours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron.reporting.comparison import Report, format_quantity
from megatron.reporting.progress_line import format_count
from megatron.reporting.run_log import Record, RunLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE_COLOUR = "#000000"
COLOURS = ("#56B4E9", "#E69F00", "#882255", "#009E73", "#D55E00", "#0072B2")
WIDEST, NARROWEST = 5.2, 1.7
GREY = "#5f5f5f"


def plot_report(runs: Mapping[str, RunLog], report: Report, path: str | Path) -> None:
    """Draws validation loss against effective tokens and seconds, and the pacing, into a PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure = new_figure()
    styles = line_styles(list(runs), report["baseline"])
    grid = figure.add_gridspec(3, 6, height_ratios=(0.12, 1.6, 1))
    heading = figure.add_subplot(grid[0, :])
    above = [figure.add_subplot(grid[1, :3]), figure.add_subplot(grid[1, 3:])]
    below = [figure.add_subplot(grid[2, column : column + 2]) for column in (0, 2, 4)]

    draw_loss(above[0], runs, report, styles, "effective_tokens")
    kind = "" if report["loss"] == "lm" else f"{report['loss']} "
    above[0].set(
        title="What was reached for the tokens",
        xlabel="effective tokens (averaged over the layers)",
        ylabel=f"{kind}validation loss (nats per token)",
    )
    draw_loss(above[1], runs, report, styles, "seconds")
    above[1].set(title="What was reached for the time", xlabel="training time (seconds)")
    above[1].sharey(above[0])
    for axes, value_of, title, unit in (
        (below[0], sequence_length, "Sequence length", "tokens"),
        (below[1], kept_length, "Seen by the layers that drop tokens", "tokens"),
        (below[2], pool_percent, "Pool a batch is drawn from", "% of the samples"),
    ):
        draw_pacing(axes, runs, styles, value_of)
        axes.set(title=title, ylabel=unit)
    draw_heading(heading, report, styles)
    figure.savefig(path, dpi=150)


def new_figure() -> "Figure":
    """An empty figure that needs no display and no global state."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise ModuleNotFoundError(
            "the picture needs matplotlib: pip install 'data-efficiency[report]'"
        ) from error
    figure = Figure(figsize=(12.5, 8.8), facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.09, wspace=0.04)
    return figure


def line_styles(names: Sequence[str], baseline: str) -> dict[str, dict[str, Any]]:
    """Colour, width and place above each other of each run's lines."""
    others = [name for name in names if name != baseline]
    styles: dict[str, dict[str, Any]] = {
        baseline: {"color": BASELINE_COLOUR, "linewidth": WIDEST, "zorder": 2}
    }
    for number, name in enumerate(others):
        styles[name] = {
            "color": COLOURS[number % len(COLOURS)],
            "linewidth": WIDEST - (WIDEST - NARROWEST) * (number + 1) / len(others),
            "zorder": 3 + number,
        }
    return {name: styles[name] for name in names}


def draw_loss(
    axes: "Axes",
    runs: Mapping[str, RunLog],
    report: Report,
    styles: Mapping[str, Mapping[str, Any]],
    clock: str,
) -> None:
    """Validation loss against one clock, with the baseline's last loss as a level to reach."""
    for name, log in runs.items():
        points = [point for point in log.compared if point["loss"] is not None]
        horizontal = [point[clock] for point in points]
        losses = [point["loss"] for point in points]
        style = {**styles[name], "linewidth": 0.7 * styles[name]["linewidth"]}
        axes.plot(horizontal, losses, solid_capstyle="butt", **style)
        axes.plot(
            horizontal[-1:],
            losses[-1:],
            marker="o",
            markersize=7,
            markeredgecolor="white",
            color=styles[name]["color"],
            zorder=10,
        )
    target = report["runs"][report["baseline"]]["final"]["validation_loss"]
    tidy_axes(axes)
    axes.set_xlim(left=0)
    if target is not None:
        axes.axhline(target, color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        axes.set_ylim(loss_limits(runs))
        axes.annotate(
            f"baseline's last loss {target:.3f}",
            xy=(0.99, target),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -4),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="top",
            color=GREY,
            fontsize=9,
        )


def loss_limits(runs: Mapping[str, RunLog]) -> tuple[float, float]:
    """Lower and upper end of the loss axis: the first tenth of the fall is left out of view.

    The fall from a random model is so steep that it would flatten all that matters.
    """
    losses = [
        [point["loss"] for point in log.compared if point["loss"] is not None]
        for log in runs.values()
    ]
    lowest = min(min(values) for values in losses if values)
    upper = max(
        values[min(len(values) - 1, math.ceil(len(values) / 10))] for values in losses if values
    )
    margin = max(0.02, 0.08 * (upper - lowest))
    return lowest - margin, upper + margin


def draw_pacing(
    axes: "Axes",
    runs: Mapping[str, RunLog],
    styles: Mapping[str, Mapping[str, Any]],
    value_of: Callable[[Record, Record], float],
) -> None:
    """One pacing curve a run against the step."""
    for name, log in runs.items():
        steps = [record["step"] for record in log.train]
        values = [value_of(record, log.start) for record in log.train]
        axes.plot(steps, values, drawstyle="steps-post", solid_capstyle="butt", **styles[name])
    tidy_axes(axes)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    lower, upper = axes.get_ylim()
    axes.set_ylim(0, upper + 0.05 * (upper - lower))


def sequence_length(record: Record, start: Record) -> int:
    """Tokens of a row in this step."""
    return record["sequence_length"]


def kept_length(record: Record, start: Record) -> int:
    """Tokens of a row that a dropping layer sees; all of them where nothing is dropped."""
    kept = record.get("kept_length")
    return record["sequence_length"] if kept is None else min(kept, record["sequence_length"])


def pool_percent(record: Record, start: Record) -> float:
    """Part of the training samples the step could draw from; without a curriculum all."""
    pool = record.get("pool_size")
    return 100.0 if pool is None else 100 * pool / start["train_samples_in_dataset"]


def tidy_axes(axes: "Axes") -> None:
    """Short numbers, a faint grid, no frame to the right and above."""
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value))
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.spines[["left", "bottom"]].set_color("#b0b0b0")


def draw_heading(axes: "Axes", report: Report, styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Title with the runs' size, and one legend for all panels with each run's last loss."""
    baseline = report["runs"][report["baseline"]]
    axes.set_axis_off()
    axes.set_title(
        f"{format_count(baseline['num_parameters'])} parameters, "
        f"{format_count(baseline['training_tokens_in_data'])} tokens of training data, "
        "one seed a variant: a picture of the method, not evidence",
        fontsize=13,
        pad=0,
    )
    for name, style in styles.items():
        loss = format_quantity("validation_loss", report["runs"][name]["final"]["validation_loss"])
        axes.plot([], [], label=f"{name.replace('_', ' ')}: loss {loss}", **style)
    axes.legend(
        loc="center",
        bbox_to_anchor=(0.5, 0.3),
        ncols=min(len(styles), 4),
        frameon=False,
        fontsize=11,
        handlelength=2.6,
        columnspacing=2.6,
    )
