r"""Puts finished runs beside each other: a table of mean and spread over seeds, JSON and a picture.

python -m examples_deepspeed.data_efficiency.finetuning.compare --output runs/comparison \
    baseline=runs/gpt2/baseline random-LTD=runs/gpt2/random_ltd both=runs/gpt2/both
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency import files
from megatron.reporting import format_seeds, plot_seeds, read_seeds, seed_figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it, its figures and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER", help="folder with seed*/")
    parser.add_argument("--output", type=Path, required=True, help="folder of table and picture")
    arguments = parser.parse_args(argv)
    pairs = [pair.partition("=") for pair in arguments.runs]
    runs = {name: read_seeds(Path(folder)) for name, _, folder in pairs}
    with files.reading(f"one of the results in {', '.join(arguments.runs)}"):
        figures = seed_figures(runs)
        table = format_seeds(runs, figures)
        arguments.output.mkdir(parents=True, exist_ok=True)
        plot_seeds(runs, arguments.output / "comparison.png")
    files.write_file(arguments.output / "comparison.md", table + "\n")
    files.write_file(arguments.output / "comparison.json", json.dumps(figures, indent=1) + "\n")
    print(table)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
