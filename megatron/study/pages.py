"""A report's files: results.jsonl, report.md, report.png and, last, report.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.study.picture import plot_report
from megatron.study.report import Comparison, format_report, make_report
from megatron.study.results import RunResult, results_as_json


def write_pages(
    comparison: Comparison,
    results: Sequence[RunResult],
    runs: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    picture: bool = True,
) -> str:
    """The report's text, after writing it and the rest into a folder.

    Raises:
        ValueError: if the runs are not judged by one measure.
        ModuleNotFoundError: if a picture is asked for and matplotlib is not installed.
    """
    report = make_report(comparison, results, runs)
    text = format_report(report)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_file(folder / "results.jsonl", results_as_json(results))
    if picture and results:
        with files.new_file(folder / "report.png") as partial:
            plot_report(report, results, partial)
    files.write_file(folder / "report.md", text)
    # Written last: who finds report.json finds the others too.
    files.write_file(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    return text
