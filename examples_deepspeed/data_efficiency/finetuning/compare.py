r"""Puts finished runs beside each other: a table of mean and spread over seeds, JSON and a picture.

python -m examples_deepspeed.data_efficiency.finetuning.compare --output runs/comparison \
    baseline=runs/gpt2/baseline random-LTD=runs/gpt2/random_ltd both=runs/gpt2/both
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples_deepspeed.data_efficiency.finetuning.run import RESULTS_FILE

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
CLOCKS = {
    "layer_tokens": "layer tokens",
    "corpus_tokens": "corpus tokens",
    "training_seconds": "training seconds",
}
COLOURS = ("#000000", "#56B4E9", "#E69F00", "#882255", "#009E73", "#D55E00")


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The results of every finished seed under a folder.

    Raises:
        ValueError: if there is none.
    """
    found = sorted(folder.glob(f"seed*/{RESULTS_FILE}"))
    if not found:
        raise ValueError(f"{folder} has no finished run: no seed*/{RESULTS_FILE}")
    return [json.loads(path.read_text()) for path in found]


def summarize(runs: Runs) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the seeds of every figure of each variant.

    Raises:
        ValueError: if the runs do not measure one thing.
    """
    names = {result["quality_name"] for results in runs.values() for result in results}
    if len(names) != 1:
        raise ValueError(f"the runs measure {sorted(names)}: compare runs of one example")
    summary = {}
    for variant, results in runs.items():
        summary[variant] = {"seeds": [result["description"]["seed"] for result in results]}
        for key in ("test", "validation", "best_validation", "steps", *CLOCKS):
            values = [result[key] for result in results]
            spread = statistics.stdev(values) if len(values) > 1 else None
            summary[variant][key] = {"mean": statistics.fmean(values), "spread": spread}
    return summary


def format_table(runs: Runs, summary: Mapping[str, Mapping[str, Any]]) -> str:
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


def plot(runs: Runs, path: Path) -> None:
    """Draws validation quality against layer tokens, corpus tokens and seconds into a PNG file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the picture needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(CLOCKS), sharey=True)
    for panel, (clock, title) in zip(panels, CLOCKS.items(), strict=True):
        for number, (variant, results) in enumerate(runs.items()):
            for seed, result in enumerate(results):
                points = [point for point in result["history"] if point["steps"]]
                panel.plot(
                    [point[clock] for point in points],
                    [point["validation"] for point in points],
                    color=COLOURS[number % len(COLOURS)],
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


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it, its figures and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="folder with seed*/")
    parser.add_argument("--output", type=Path, required=True, help="folder of table and picture")
    arguments = parser.parse_args(argv)
    try:
        pairs = [pair.partition("=") for pair in arguments.runs]
        runs = {name: read_runs(Path(folder)) for name, _, folder in pairs}
        summary = summarize(runs)
        table = format_table(runs, summary)
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "comparison.md").write_text(table + "\n")
        (arguments.output / "comparison.json").write_text(json.dumps(summary, indent=1) + "\n")
        plot(runs, arguments.output / "comparison.png")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(table)


if __name__ == "__main__":
    main()
