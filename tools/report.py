"""Compares finished or running runs: a table on the terminal, report.json and report.png.

python tools/report.py --run baseline=runs/a --run curriculum=runs/b --output runs/report
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency import files
from megatron.reporting import compare_runs, format_comparison, plot_report, read_log


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add(
        "--run",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="a run and the folder it was saved to; repeat for each run",
    )
    add("--baseline", default="baseline", metavar="NAME", help="the run the others are set against")
    add("--output", required=True, type=Path, help="folder for report.json and report.png")
    add("--picture", action=argparse.BooleanOptionalAction, default=True, help="draw report.png")
    return parser.parse_args(argv)


def named_folders(runs: Sequence[str]) -> dict[str, Path]:
    """Run name -> folder.

    Raises:
        ValueError: An entry is not of the form NAME=FOLDER, or a name comes twice.
    """
    folders: dict[str, Path] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--run is {text!r}: write NAME=FOLDER")
        if name in folders:
            raise ValueError(f"--run names {name!r} twice: give each run a name of its own")
        folders[name] = Path(folder)
    return folders


def write_report(arguments: argparse.Namespace) -> None:
    """Prints the table and writes both files."""
    runs = {name: read_log(folder) for name, folder in named_folders(arguments.run).items()}
    with files.reading(f"one of the logs {', '.join(arguments.run)}"):
        report = compare_runs(runs, arguments.baseline)
        arguments.output.mkdir(parents=True, exist_ok=True)
        print(format_comparison(report))
        if arguments.picture:
            picture = arguments.output / "report.png"
            with files.new_file(picture) as partial:
                plot_report(runs, report, partial)
            print(f"\nPicture: {picture}")
    # Written last: who finds report.json finds the picture too.
    path = arguments.output / "report.json"
    files.write_file(path, json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(f"Numbers: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a report, 1 after an error."""
    return run_command(lambda words: write_report(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
