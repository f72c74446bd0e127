"""Finished runs of several seeds beside each other: mean and spread as a table, JSON and a picture.

A result is JSON data with `quality_name`, `description` (with the seed), the figures of the end and a
`history` of points.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.reporting.picture import BASELINE_COLOUR, COLOURS

RESULTS_FILE = "results.json"
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
CLOCKS = {
    "layer_tokens": "layer tokens",
    "corpus_tokens": "corpus tokens",
    "training_seconds": "training seconds",
}


def read_seeds(folder: Path) -> list[dict[str, Any]]:
    """The results of every finished seed under a folder.

    Raises:
        ValueError: if there is none.
    """
    found = sorted(folder.glob(f"seed*/{RESULTS_FILE}"))
    if not found:
        raise ValueError(f"{folder} has no finished run: no seed*/{RESULTS_FILE}")
    return [files.read_json_object(path) for path in found]


def seed_figures(runs: Runs) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the seeds of every figure of each variant.

    Raises:
        ValueError: if the runs do not measure one thing.
    """
    names = {result["quality_name"] for results in runs.values() for result in results}
    if len(names) != 1:
        raise ValueError(f"the runs measure {sorted(names)}: compare runs of one example")
    summary: dict[str, dict[str, Any]] = {}
    for variant, results in runs.items():
        summary[variant] = {"seeds": [result["description"]["seed"] for result in results]}
        for key in ("test", "validation", "best_validation", "steps", *CLOCKS):
            values = [result[key] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else None
            summary[variant][key] = {"mean": statistics.fmean(values), "spread": spread}
    return summary


def format_seeds(runs: Runs, summary: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table, one line a variant; quality as mean +- standard deviation."""
    name = next(iter(runs.values()))[0]["quality_name"]
    lines = [
        f"| run | seeds | test {name} | validation {name} | steps | layer tokens | corpus tokens | "
        "training seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, figures in summary.items():
        cells = [variant, str(len(figures["seeds"]))]
        cells += [_quality(figures[key]) for key in ("test", "validation")]
        cells += [f"{figures[key]['mean']:,.0f}" for key in ("steps", *CLOCKS)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _quality(figure: Mapping[str, float | None]) -> str:
    spread = "" if figure["spread"] is None else f" ± {figure['spread']:.2f}"
    return f"{figure['mean']:.2f}{spread}"


def plot_seeds(runs: Runs, path: Path) -> None:
    """Draws validation quality against layer tokens, corpus tokens and seconds into a PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the picture needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(12, 4), layout="constrained")
    palette = (BASELINE_COLOUR, *COLOURS)
    panels = figure.subplots(1, len(CLOCKS), sharey=True)
    for panel, (clock, title) in zip(panels, CLOCKS.items(), strict=True):
        for number, (variant, results) in enumerate(runs.items()):
            for seed, result in enumerate(results):
                points = [point for point in result["history"] if point["steps"]]
                panel.plot(
                    [point[clock] for point in points],
                    [point["validation"] for point in points],
                    color=palette[number % len(palette)],
                    marker="o",
                    alpha=0.7,
                    label=variant if seed == 0 else None,
                )
        panel.set_xlabel(title)
        panel.grid(color="#e3e3e3")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"validation {next(iter(runs.values()))[0]['quality_name']}")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)
