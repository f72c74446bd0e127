"""Prints evaluations as the published comparison table, in Markdown, the GPT-3 paper's numbers beside.

python tools/gather_results.py --run baseline=results/baseline --run both=results/both
python tools/gather_results.py --run baseline=results/seed1 --run baseline=results/seed2   mean ± spread

A run is a JSON file of tools/evaluate_gpt.py, or a folder with such files, among others, in it or below it.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron.command import run_command

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.evaluation.result_table import format_table, gather
from megatron.evaluation.results import is_record, read_record


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--run",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="a model and its results; a name that comes again is another training of it",
    )
    add("--output", type=Path, metavar="FILE", help="also write the numbers as JSON")
    return parser.parse_args(argv)


def named_records(runs: Sequence[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Model, training and record of each file.

    Raises:
        ValueError: if an entry is not of the form NAME=PATH, or a file is no result.
        FileNotFoundError: if there is nothing at a path.
    """
    for text in runs:
        name, place = _name_and_path(text)
        path = Path(place)
        found: list[dict[str, Any]] = []
        if path.is_dir():
            found = [read_record(file) for file in sorted(path.rglob("*.json")) if is_record(file)]
        elif path.is_file():
            found = [read_record(path)]
        if not found:
            raise FileNotFoundError(f"--run {name}: no result of tools/evaluate_gpt.py in {place}")
        for record in found:
            yield name, place, record


def _name_and_path(text: str) -> tuple[str, str]:
    """NAME and PATH of NAME=PATH; where either has such a sign too, the first division whose path is there."""
    parts = text.split("=")
    both = [("=".join(parts[:n]), "=".join(parts[n:])) for n in range(1, len(parts))]
    both = [(name, path) for name, path in both if name and path]
    if not both:
        raise ValueError(f"--run is {text!r}: write NAME=PATH")
    return next((one for one in both if Path(one[1]).exists()), both[0])


def show_table(arguments: argparse.Namespace) -> None:
    """Print the table and write its numbers."""
    if arguments.output:
        sources = [text.partition("=")[2] for text in arguments.run]
        files.refuse_writing_over([arguments.output], sources)
    with files.reading(f"one of the results {', '.join(arguments.run)}"):
        results = gather(named_records(arguments.run))
        print(format_table(results))
    if arguments.output:
        numbers = [asdict(result) for result in results]
        files.write_file(arguments.output, json.dumps(numbers, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a table, 1 after an error."""
    return run_command(lambda words: show_table(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
