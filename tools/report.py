"""Compares runs: a table on the terminal, and report.md, report.json, report.png, results.jsonl.

python tools/report.py --run baseline=runs/a --run curriculum=runs/b --output runs/report

A FOLDER is a run's, of the trainer or of the finetuning examples, or one with a run for each seed (seed*).
What the runs differ in is said, not judged: tools/study.py compares runs that differ in what is declared.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.study import Comparison, RunResult, read_arm, undeclared_differences, write_pages


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--run",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="a run and the folder it was saved to; repeat for each run",
    )
    add("--baseline", default="baseline", metavar="NAME", help="the run the others are set against")
    add("--output", required=True, type=Path, help="folder for the report")
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


def report_on(arguments: argparse.Namespace) -> None:
    """Print the report and write its files."""
    folders = named_folders(arguments.run)
    if arguments.baseline not in folders:
        raise ValueError(
            f"the baseline {arguments.baseline!r} is not among the runs: {', '.join(folders)}"
        )
    results: list[RunResult] = []
    for name, folder in folders.items():
        with files.reading(folder):
            results += read_arm(folder, name)
    runs = [
        {"arm": one.arm, "seed": one.seed, "budget": one.budget, "state": "finished"}
        for one in results
    ]
    with files.reading(f"one of the runs {', '.join(arguments.run)}"):
        comparison = Comparison(
            title="Runs beside each other",
            arms=list(folders),
            baseline=arguments.baseline,
            changes=undeclared_differences(results, arguments.baseline),
        )
        print(write_pages(comparison, results, runs, arguments.output, picture=arguments.picture))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a report, 1 after an error."""
    return run_command(lambda words: report_on(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
