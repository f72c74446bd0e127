"""A report's files: results.jsonl, report.md, report.png and, last, report.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.study.fairness import changes, hidden_differences
from megatron.study.jobs import Job
from megatron.study.picture import plot_report
from megatron.study.report import Comparison, make_report
from megatron.study.report_tables import format_cases, format_report
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
    """The report of a study's finished runs, written into its folder, and into its `results`; of each case of
    `[each]` into the case's.

    Raises:
        ModuleNotFoundError: if matplotlib or scipy is not installed.
    """
    if list(study.cases) == [""]:
        text = _write_case(study, jobs, study.output, study.title or study.path.stem)
        return f"{text}\nTable, picture and numbers: {study.output}/report.{{md,png,json}}"
    title = study.title or study.path.stem
    texts, reports = [], {}
    for case in study.cases:
        folder = study.output / case
        own = [job for job in jobs if job.case == case]
        texts.append(_write_case(study, own, folder, f"{title}: {case}"))
        reports[case] = files.read_json_object(folder / "report.json")
    [(table, setting)] = next(iter(study.cases.values())).items()
    heading = "\n".join([f"# {title}", "", *([study.question, ""] if study.question else [])])
    summary = f"{heading}\n{format_cases(reports, f'{table}.{next(iter(setting))}')}"
    files.write_file(study.output / "report.md", "\n".join([summary, *texts]))
    # Written last: who finds report.json finds the others too.
    files.write_file(study.output / "report.json", json.dumps(reports, indent=1) + "\n")
    return f"{summary}\nEach case by itself: {study.output}/*/report.{{md,png,json}}"


def _write_case(study: Study, jobs: Sequence[Job], folder: Path, title: str) -> str:
    """The report of the jobs that are compared with each other, after writing it into a folder."""
    results: list[RunResult] = []
    runs: list[dict[str, Any]] = []
    for job in jobs:
        run = {"arm": job.arm.name, "seed": job.seed, "budget": job.budget, "state": job.state}
        if job.state == "finished":
            try:
                results.append(job.result())
            except (ValueError, FileNotFoundError) as error:
                run |= {"state": "without a result", "reason": str(error)}
        runs.append(run)
    first = {job.arm.name: job for job in reversed(jobs) if job.budget == max(job.arm.budgets)}
    base = first[study.baseline].settings
    comparison = Comparison(
        title=title,
        question=study.question,
        arms=list(study.arms),
        baseline=study.baseline,
        beside=study.beside,
        changes={name: changes(job.settings, base) for name, job in sorted(first.items())},
        refused=hidden_differences(
            results,
            {job.key: job.settings for job in jobs},
            study.baseline,
            {name: arm.may_differ for name, arm in study.arms.items()},
            {job.key: job.defaults for job in jobs},
        ),
    )
    if study.results_folder is not None:
        write_pages(comparison, results, runs, study.results_folder / jobs[0].case)
    return write_pages(comparison, results, runs, folder)
