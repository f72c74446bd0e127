"""What a difficulty index looks like: numbers, text and a picture."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.difficulty_index import DifficultyIndex

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def sample_at_percentile(index: DifficultyIndex, percentile: float) -> int:
    """Number of the sample at a place of the order: 0 the easiest, 100 the hardest."""
    return int(index.order[round((index.num_samples - 1) * percentile / 100)])


def summarize(index: DifficultyIndex) -> dict[str, Any]:
    """Count, range, distinct values and percentiles of an index, as plain JSON data.

    The difficulty at percentile p is that of the sample at place p % of the order.
    """
    return {
        "metric": index.metric,
        "source": None if index.source is None else dict(index.source),
        "num_samples": index.num_samples,
        "num_distinct_values": index.num_distinct_values,
        "min_value": index.min_value,
        "max_value": index.max_value,
        "percentiles": {
            percentile: index.values[sample_at_percentile(index, percentile)].item()
            for percentile in PERCENTILES
        },
    }


def summary_text(index: DifficultyIndex) -> str:
    """The summary of an index as a few lines of text."""
    summary = summarize(index)
    lines = [
        f"metric           {summary['metric']}",
        f"samples          {summary['num_samples']:,}",
        f"distinct values  {summary['num_distinct_values']:,}",
        f"smallest         {_number(summary['min_value'])}",
    ]
    if index.source is not None:
        parts = [f"{key} {value}" for key, value in index.source.items() if value is not None]
        lines.insert(1, f"imported         {', '.join(parts)}")
    for percentile, value in summary["percentiles"].items():
        lines.append(f"percentile {percentile:<5} {_number(value)}")
    lines.append(f"largest          {_number(summary['max_value'])}")
    return "\n".join(lines)


def write_histogram(index: DifficultyIndex, path: str | PathLike[str]) -> Path:
    """The file `path` (PNG) with a histogram of the difficulties and marks at the percentiles.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pictures need matplotlib: pip install 'data-efficiency[report]'"
        ) from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts, edges = np.histogram(index.values, bins=_bin_edges(index))
    axes.stairs(counts, edges, fill=True, color="#4477aa")
    _mark_percentiles(axes, index, float(edges[-1] - edges[0]))
    axes.set(xlabel=f"difficulty ({index.metric})", ylabel="samples")
    axes.set_title(f"{index.num_samples:,} samples", pad=16)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return Path(path)


def _mark_percentiles(axes: Any, index: DifficultyIndex, width: float) -> None:
    """Draws a line at some percentiles, with a label where there is room for it."""
    last_label = -np.inf
    for percentile in (1, 10, 50, 90, 99):
        value = float(index.values[sample_at_percentile(index, percentile)])
        axes.axvline(value, color="#222222", linewidth=0.8, linestyle=":")
        if value - last_label > 0.05 * width:
            last_label = value
            axes.annotate(
                f"{percentile} %",
                (value, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=8,
            )


def _bin_edges(index: DifficultyIndex) -> np.ndarray:
    """Edges of at most 100 bins of one width, each holding as many integers as the others."""
    low, high = float(index.min_value), float(index.max_value)
    if index.values.dtype.kind == "f":
        return np.linspace(low, high, 101) if high > low else np.array([low - 0.5, low + 0.5])
    width = max(1, int(np.ceil((high - low + 1) / 100)))
    num_bins = int(np.ceil((high - low + 1) / width))
    return low - 0.5 + width * np.arange(num_bins + 1)


def _number(value: int | float) -> str:
    """A difficulty as text."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
