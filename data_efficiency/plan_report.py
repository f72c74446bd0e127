"""What a configuration will do, for the eye: a table of steps, the saving, and a picture."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.accounting import StepShape
from data_efficiency.picture import BASELINE_COLOUR, COLOURS, GREY, new_figure, tidy_axes
from data_efficiency.plan import RunPlan
from data_efficiency.short_numbers import format_count

TOTALS = {
    "corpus_tokens": "corpus tokens",
    "loss_tokens": "tokens in the loss",
    "layer_tokens": "layer tokens",
    "flops": "model FLOPs",
}


MAX_POINTS = 2000
"""Of a line in the picture; longer runs are drawn from evenly spread steps."""


def format_plan(plan: RunPlan, num_rows: int = 20, stage_starts: Sequence[int] = ()) -> str:
    """Evenly spread steps as a table, and totals beside those of the baseline.

    Args:
        num_rows: steps to show, the first and the last among them.
        stage_starts: first step of each stage of the run, which is shown as well.
    """
    window = ["window"] if _has_window(plan) else []
    samples = ["samples"] if _has_batches(plan) else []
    titles = [
        "pool",
        "% of data",
        *samples,
        "length",
        *window,
        "kept",
        "tokens",
        "FLOPs",
        "all tokens",
    ]
    parts = [f"part {number} %" for number in range(len(plan.part_shares(1)))]
    parts += [f"{length} long %" for length in plan.bucket_lengths]
    staged = ["stage"] if stage_starts else []
    rows = [["step", *staged, *plan.difficulties(1), *parts, *titles]]
    for step in sorted({*_spread_steps(plan, num_rows), *stage_starts}):
        stretch, pool = plan.stretch_at(step), plan.pool_size(step)
        rows.append(
            [
                str(step),
                *(str(bisect_right(stage_starts, step)) for _ in staged),
                *map(str, plan.difficulties(step).values()),
                *(f"{100 * share:.1f}" for share in plan.part_shares(step)),
                *(f"{100 * share:.0f}" for share in plan.bucket_shares(step)),
                format_count(pool),
                f"{100 * pool / plan.num_samples:.1f}",
                *(format_count(stretch.counts.consumed_samples) for _ in samples),
                str(stretch.shape.sequence_length),
                *(str(_window(stretch.shape)) for _ in window),
                str(stretch.shape.dropped_sequence_length),
                format_count(stretch.counts.corpus_tokens),
                format_count(stretch.counts.flops),
                format_count(plan.counters(step).corpus_tokens),
            ]
        )
    return "\n".join([*aligned(rows), "", *_saving(plan)])


def _has_batches(plan: RunPlan) -> bool:
    section = plan.config.data_efficiency
    return section.batch_size is not None or section.length_buckets is not None


def _has_window(plan: RunPlan) -> bool:
    return any(stretch.shape.attention_window is not None for stretch in plan.stretches)


def _window(shape: StepShape) -> int:
    """Positions that attention looks at."""
    return shape.attention_window or shape.sequence_length


def _spread_steps(plan: RunPlan, number: int) -> list[int]:
    """At most so many steps from the first to the last, evenly spread."""
    return np.unique(np.linspace(1, plan.num_steps, number).round().astype(int)).tolist()


def _saving(plan: RunPlan) -> list[str]:
    """Totals of the plan, of the baseline, and what the plan saves."""
    both = plan.counters(plan.num_steps), plan.baseline
    figures = {title: [getattr(c, field) for c in both] for field, title in TOTALS.items()}
    figures["effective tokens"] = [c.at("effective", plan.model.num_layers) for c in both]
    rows = [[f"{plan.num_steps} steps", "this plan", "baseline", "saved"]]
    for title, (own, whole) in figures.items():
        saved = f"{100 * (1 - own / whole):.1f}%"
        rows.append([title, format_count(own), format_count(whole), saved])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row, every column as wide as its widest cell; cells stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def plot_plan(plan: RunPlan, path: str | Path, stage_starts: Sequence[int] = ()) -> None:
    """Draws difficulty, pool, lengths, tokens and FLOPs of every step into a PNG file, a line where a stage begins.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure = new_figure()
    panels = figure.subplots(2, 3).ravel()
    steps = np.array(_spread_steps(plan, min(plan.num_steps, MAX_POINTS)))
    stretches = [plan.stretch_at(step) for step in steps.tolist()]
    whole = plan.full_batch.sequence_length
    difficulties = [plan.difficulties(step) for step in steps.tolist()]
    if _has_batches(plan):
        for each, stretch in zip(difficulties, stretches, strict=True):
            each["samples of a step"] = stretch.counts.consumed_samples
    highest = {name: max(each[name] for each in difficulties) for name in difficulties[-1]}
    _draw(
        panels[0],
        "Difficulty" + (" and batch" if _has_batches(plan) else "") + ", % of its largest value",
        steps,
        {
            name: [100 * each[name] / max(1, largest) for each in difficulties]
            for name, largest in highest.items()
        },
    )
    _draw(panels[1], *_drawn_from(plan, steps))
    lengths = {"length": [stretch.shape.sequence_length for stretch in stretches]}
    if _has_window(plan):
        lengths["window"] = [_window(stretch.shape) for stretch in stretches]
    if plan.config.data_efficiency.random_ltd:
        lengths["kept"] = [stretch.shape.dropped_sequence_length for stretch in stretches]
    _draw(panels[2], "Positions of a row", steps, lengths, whole)
    for panel, field in ((panels[3], "corpus_tokens"), (panels[4], "flops")):
        one = getattr(plan.baseline, field) / plan.num_steps
        added = [getattr(stretch.counts, field) for stretch in stretches]
        _draw(panel, f"{TOTALS[field]} of a step", steps, {"": added}, one)
    total = [float(plan.counters(step).flops) for step in steps.tolist()]
    baseline = steps * (plan.baseline.flops / plan.num_steps)
    panels[5].plot(steps, baseline, color=GREY, linestyle=":", linewidth=1.2)
    _draw(panels[5], "model FLOPs so far", steps, {"": total})
    for panel in panels:
        _mark_stages(panel, stage_starts)
    figure.savefig(path, dpi=120)


def _drawn_from(plan: RunPlan, steps: Any) -> tuple[str, Any, dict[str, Any]]:
    """Title, steps and lines of what is drawn from: the pool, and parts of a blend; or rows of each length."""
    if plan.bucket_lengths:
        shares = np.array([plan.bucket_shares(step) for step in steps.tolist()])  # [steps, lengths]
        named = (f"{length} tokens" for length in plan.bucket_lengths)
        lines = dict(zip(named, 100 * shares.T, strict=True))
        return "Drawn from rows of a length, % of the steps", steps, lines
    pools = np.array([plan.pool_size(step) for step in steps.tolist()])
    shares = np.array([plan.part_shares(step) for step in steps.tolist()])  # [steps, parts]
    parts = {f"part {number}": 100 * share for number, share in enumerate(shares.T)}
    title = "Pool, % of the samples" + (", and drawn from each part, %" if parts else "")
    return title, steps, {"pool" if parts else "": 100 * pools / plan.num_samples, **parts}


def _mark_stages(axes: Any, starts: Sequence[int]) -> None:
    """A line where each stage but the first begins, with its number."""
    for number, step in enumerate(starts[1:], start=2):
        axes.axvline(step, color=GREY, linewidth=0.8)
        place = {"xycoords": ("data", "axes fraction"), "rotation": 90, "va": "top", "ha": "right"}
        axes.annotate(f"stage {number}", (step, 0.98), color=GREY, fontsize=7, **place)


def _draw(
    axes: Any, title: str, steps: Any, lines: dict[str, Any], baseline: float | None = None
) -> None:
    """One panel; the baseline's value is a dotted line."""
    for number, (name, values) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)] if name else BASELINE_COLOUR
        axes.plot(steps, values, drawstyle="steps-post", color=colour, label=name, linewidth=2)
    if baseline is not None:
        axes.axhline(baseline, color=GREY, linestyle=":", linewidth=1.2)
    if any(lines):
        # Where the lines leave most room is looked for at each of their corners.
        corners = sum(np.count_nonzero(np.diff(values)) for values in lines.values())
        axes.legend(frameon=False, loc="best" if corners < MAX_POINTS // 10 else "upper right")
    tidy_axes(axes)
    axes.yaxis.set_major_formatter(axes.xaxis.get_major_formatter())
    axes.set(title=title, xlabel="step")
    axes.set_ylim(bottom=0)
