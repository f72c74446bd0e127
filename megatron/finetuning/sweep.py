"""A sweep over tasks, learning rates and seeds that can be stopped and started again, and its table.

OUTPUT/<task>/lr2e-05_seed1234.json    one run: settings, scores of each epoch, seconds
"""

import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_efficiency import files
from megatron.conversion.model import Model
from megatron.finetuning.classifier import BertClassifier
from megatron.finetuning.data import Examples
from megatron.finetuning.inputs import InputRows
from megatron.finetuning.tasks import GLUE, GlueTask
from megatron.finetuning.training import FinetuningConfig, finetune

FORMAT = "finetuning"
VERSION = 1
PUBLISHED_SEEDS = (1234, 1235, 1236, 1237, 1238)
PUBLISHED_LEARNING_RATES = (2e-5, 3e-5, 4e-5, 5e-5)

Sets = Mapping[str, tuple[InputRows, Examples]]


class SweepRun(NamedTuple):
    """One entry of the sweep."""

    task: str
    learning_rate: float
    seed: int

    def path(self, output: Path) -> Path:
        """Its file."""
        return output / self.task / f"lr{self.learning_rate:g}_seed{self.seed}.json"


def is_done(run: SweepRun, output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the run's file is there.

    Raises:
        ValueError: if it is, and was made with other settings.
    """
    path = run.path(output)
    if not path.is_file():
        return False
    found = read_sweep_run(path)["settings"]
    other = [name for name in settings if found.get(name) != settings[name]]
    if other:
        raise ValueError(
            f"{path} was made with {other[0]} = {found.get(other[0])!r}, not {settings[other[0]]!r}:"
            " give another --output"
        )
    return True


def execute(
    run: SweepRun,
    task: GlueTask,
    sets: Sets,
    model: Model,
    config: FinetuningConfig,
    *,
    device: torch.device,
    random_ltd: Mapping[str, Any] | None = None,
    report: Callable[[int, int, float], None] = lambda *_: None,
) -> dict[str, Any]:
    """The run's scores, sizes and seconds, as plain JSON data."""
    started = time.monotonic()
    settings = dataclasses.replace(
        model.config, attention_dropout=config.dropout, hidden_dropout=config.dropout
    )
    classifier = BertClassifier(
        Model(settings, model.weights),
        1 if task.labels is None else len(task.labels),
        dropout=config.dropout,
        seed=run.seed,
    ).to(device)
    scores = finetune(
        classifier,
        task,
        sets,
        config,
        seed=run.seed,
        learning_rate=run.learning_rate,
        random_ltd=random_ltd,
        report=report,
    )
    return {
        "epochs": scores,
        "num_examples": {name: len(rows.ids) for name, (rows, _) in sets.items()},
        "seconds": round(time.monotonic() - started, 1),
    }


def write_sweep_run(
    run: SweepRun, output: Path, settings: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Write a run's file."""
    record = {"format": FORMAT, "version": VERSION, **run._asdict(), **found}
    files.write_file(
        run.path(output), json.dumps(record | {"settings": dict(settings)}, indent=1) + "\n"
    )


def read_sweep_run(path: Path) -> dict[str, Any]:
    """A run's file.

    Raises:
        ValueError: if it is something else.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise ValueError(f"{path} is no result of tools/finetune_bert.py of version {VERSION}")
    return record


def shared_settings(config: FinetuningConfig, **more: Any) -> dict[str, Any]:
    """What two runs of one sweep have in common, as plain JSON data."""
    return {**asdict(config), **more}


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """Median and sample standard deviation over the seeds, as Markdown: a row for each learning rate.

    Scores are those after the last epoch. The last row takes for each column the learning rate with the
    best median, which the development set chose: it is too high by what was chosen from.

    Differs: the published scripts take each seed's best epoch, also by the development set, and MNLI's
    two scores from the seed that is the median of one of them.
    """
    scores: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for dev_set, metrics in record["epochs"][-1].items():
            column = record["task"] + dev_set.removeprefix("dev").replace("_", "-")
            metric = next(iter(metrics))
            scores[record["learning_rate"]][f"{column} ({metric})"].append(metrics[metric])
    if not scores:
        return "no finished runs"
    names = sorted({name for row in scores.values() for name in row}, key=_place)
    lines = [
        "| learning rate | " + " | ".join([*names, "mean"]) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for rate in sorted(scores):
        lines.append(_line(f"{rate:g}", [scores[rate].get(name, []) for name in names]))
    if len(scores) > 1:
        best = [
            max((row[name] for row in scores.values() if name in row), key=statistics.median)
            for name in names
        ]
        lines.append(_line("best by dev", best))
    return "\n".join(lines)


def _place(column: str) -> tuple[int, str]:
    places = [i for i, name in enumerate(GLUE) if column.startswith((name + " ", name + "-"))]
    return (places[0] if places else len(GLUE), column)


def _line(title: str, cells: Sequence[Sequence[float]]) -> str:
    medians = [statistics.median(cell) for cell in cells if cell]
    texts = [_cell(cell) for cell in cells]
    texts.append(f"{statistics.mean(medians):.2f}" if len(medians) == len(cells) else "-")
    return f"| {title} | " + " | ".join(texts) + " |"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread} (n={len(values)})"
