"""The published comparison table from the records of evaluations: tasks, averages, spread over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron.evaluation import gpt3_results
from megatron.evaluation.published_tasks import COLUMNS, metric_of, published_name

Scores = Mapping[str, float]
"""Task's published name -> score: percent, or a perplexity."""


@dataclass
class Result:
    """All that was measured of one model with one number of examples."""

    model: str
    num_fewshot: int
    seeds: list[Scores] = field(default_factory=list)
    """The scores of each of its trainings."""


def scores_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The published metric of each task of a record.

    Raises:
        ValueError: if a task of the table lacks its metric.
    """
    scores = {}
    for task, metrics in record["tasks"].items():
        name, metric = published_name(task), metric_of(task)
        if metric not in metrics:
            if name in COLUMNS:
                raise ValueError(
                    f"the record of {record['checkpoint']} has no {metric} for {task}, only"
                    f" {', '.join(metrics)}"
                )
            continue
        scores[name] = metrics[metric] * (1 if "perplexity" in metric else 100)
    return scores


def gather(named_records: Iterable[tuple[str, str, Mapping[str, Any]]]) -> list[Result]:
    """Results by model and number of examples, in the order in which they first come.

    Args:
        named_records: model's name, the training (one of several of that model), record. The records
            of one training hold different tasks.

    Raises:
        ValueError: if two records of one training disagree about a task.
    """
    results: dict[tuple[str, int], Result] = {}
    trainings: dict[tuple[str, int, str], dict[str, float]] = {}
    for model, training, record in named_records:
        shots = record["num_fewshot"] or 0  # None: each task did as it says.
        result = results.setdefault((model, shots), Result(model, shots))
        key = (model, shots, training)
        if key not in trainings:
            trainings[key] = {}
            result.seeds.append(trainings[key])
        for task, score in scores_of(record).items():
            if trainings[key].setdefault(task, score) != score:
                raise ValueError(
                    f"two results of {model} in {training} disagree about {task}: remove the older"
                )
    return list(results.values())


def average(scores: Scores, tasks: Sequence[str]) -> float:
    """Mean over tasks."""
    return sum(scores[task] for task in tasks) / len(tasks)


def format_table(results: Sequence[Result]) -> str:
    """One Markdown table for each number of examples.

    A model trained several times has its mean and, after ±, the standard deviation over the
    trainings. The average is over the tasks that every row of the table has; where that is fewer than the
    19 of the published average, its heading says how many.
    """
    parts = []
    for shots in sorted({result.num_fewshot for result in results}):
        rows = [result for result in results if result.num_fewshot == shots]
        parts.append(f"### {shots} examples\n\n" + "\n".join(_table(rows, shots)))
    return "\n\n".join(parts)


def _table(rows: Sequence[Result], shots: int) -> list[str]:
    measured = [scores for row in rows for scores in row.seeds]
    columns = [task for task in COLUMNS if any(task in scores for scores in measured)]
    common = [task for task in columns if all(task in scores for scores in measured)]
    more = sorted({task for scores in measured for task in scores} - set(COLUMNS))
    heading = ["model", f"average of {len(common)}", *columns, *more]
    lines = [" | ".join(heading), "|".join(["---"] * len(heading))]
    for row in rows:
        cells = [
            _cell([average(scores, common) for scores in row.seeds] if common else []),
            *(_cell([s[task] for s in row.seeds if task in s]) for task in (*columns, *more)),
        ]
        lines.append(" | ".join([row.model, *cells]))
    for size, scores in _gpt3(shots):
        cells = [
            _cell([average(scores, common)] if common else []),
            *(_cell([scores[task]]) for task in columns),
            *("" for _ in more),
        ]
        lines.append(" | ".join([f"GPT-3 {size} (paper)", *cells]))
    return [f"| {line} |" if "---" not in line else f"|{line}|" for line in lines]


def _gpt3(shots: int) -> list[tuple[str, Scores]]:
    table = gpt3_results.FEW_SHOT if shots else gpt3_results.ZERO_SHOT
    return [
        (size, {task: values[place] for task, values in table.items()})
        for place, size in enumerate(gpt3_results.SIZES)
    ]


def _cell(values: Sequence[float]) -> str:
    """Mean, and spread where there are several values; three significant digits."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    text = f"{mean:.1f}" if mean < 1000 else f"{mean:.3g}"
    if len(values) == 1:
        return text
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{text} ± {spread:.1f}"
