"""A report's files: results.jsonl, report.md, report.png and, last, report.json."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.study.fairness import changes, hidden_differences
from megatron.study.jobs import Job
from megatron.study.picture import plot_report
from megatron.study.report import Comparison, format_report, make_report
from megatron.study.results import RESULT_LINES, RunResult, results_as_json
from megatron.study.study_file import Study


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
    files.write_file(folder / RESULT_LINES, results_as_json(results))
    if picture and any(one.arm not in comparison.refused for one in results):
        with files.new_file(folder / "report.png") as partial:
            plot_report(report, results, partial)
    files.write_file(folder / "report.md", text)
    # Written last: who finds report.json finds the others too.
    files.write_file(folder / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    return text


def write_study_report(study: Study, jobs: Sequence[Job]) -> str:
    """The report of a study's finished runs, written into its folder, and into its `results`.

    Raises:
        ModuleNotFoundError: if matplotlib or scipy is not installed.
    """
    results, runs = [], []
    for job in jobs:
        state: str = job.state
        if state == "finished":
            state = "without a result"
            with suppress(ValueError, FileNotFoundError):
                results.append(job.result())
                state = "finished"
        runs.append({"arm": job.arm.name, "seed": job.seed, "budget": job.budget, "state": state})
    first = {job.arm.name: job for job in reversed(jobs) if job.budget == max(job.arm.budgets)}
    base = first[study.baseline].settings
    comparison = Comparison(
        title=study.title or study.path.stem,
        question=study.question,
        arms=list(study.arms),
        baseline=study.baseline,
        changes={name: changes(job.settings, base) for name, job in sorted(first.items())},
        refused=hidden_differences(
            results,
            {job.key: job.settings for job in jobs},
            study.baseline,
            {name: arm.may_differ for name, arm in study.arms.items()},
        ),
    )
    text = write_pages(comparison, results, runs, study.output)
    if study.results_folder is not None:
        write_pages(comparison, results, runs, study.results_folder)
    return f"{text}\nTable, picture and numbers: {study.output}/report.{{md,png,json}}"
