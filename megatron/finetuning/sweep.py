"""A sweep over tasks, learning rates and seeds that can be stopped and started again, and its table.

OUTPUT/<task>/lr2e-05_seed1234.json          a finished run: settings, scores of each epoch, seconds
OUTPUT/<task>/lr2e-05_seed1234/global_step*   the last checkpoint of one that is not finished
"""

import functools
import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_efficiency import files
from megatron.checkpoint.saved_run import SavedRun, refuse_other_settings
from megatron.conversion.model import Model
from megatron.finetuning.classifier import BertClassifier
from megatron.finetuning.data import Examples
from megatron.finetuning.inputs import InputRows
from megatron.finetuning.tasks import GLUE, TRAIN, GlueTask
from megatron.finetuning.training import FinetuningConfig, finetune, make_engine

FORMAT = "finetuning"
VERSION = 1
PUBLISHED_SEEDS = (1234, 1235, 1236, 1237, 1238)
PUBLISHED_LEARNING_RATES = (2e-5, 3e-5, 4e-5, 5e-5)

Sets = Mapping[str, tuple[InputRows, Examples]]


class SweepRun(NamedTuple):
    """One run of the sweep."""

    task: str
    learning_rate: float
    seed: int

    def path(self, output: Path) -> Path:
        """Its file."""
        return output / self.task / f"lr{self.learning_rate:g}_seed{self.seed}.json"


def is_done(entry: SweepRun, output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the run's file is there.

    Raises:
        ValueError: if it is, and was made with other settings.
    """
    path = entry.path(output)
    if not path.is_file():
        return False
    # A setting that came later than the file had its default.
    found = asdict(FinetuningConfig()) | read_sweep_run(path)["settings"]
    refuse_other_settings(path, found, settings)
    return True


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What all runs of a sweep share."""

    model: Model
    """The pretrained BERT."""
    config: FinetuningConfig
    json_config: Mapping[str, Any] | None = None
    """Content of a file in DeepSpeed's form, as `make_engine` takes it."""
    deepspeed: bool = False
    max_train_examples: int | None = None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What two runs of one sweep have in common, as plain JSON data."""
        return {
            **asdict(self.config),
            "model": self._sha256_of_weights(),
            "deepspeed_config": None if self.json_config is None else dict(self.json_config),
            "max_train_examples": self.max_train_examples,
        }

    def execute(
        self,
        entry: SweepRun,
        task: GlueTask,
        sets: Sets,
        saved: SavedRun,
        report: Callable[[int, int, float], None] = lambda *_: None,
    ) -> dict[str, Any]:
        """The run's scores, sizes and seconds, as plain JSON data; every process calls it."""
        dropout = self.config.dropout
        settings = replace(self.model.config, attention_dropout=dropout, hidden_dropout=dropout)
        classifier = BertClassifier(
            Model(settings, self.model.weights),
            1 if task.labels is None else len(task.labels),
            dropout=dropout,
            seed=entry.seed,
        )
        engine = make_engine(
            classifier,
            self.config,
            num_examples=len(sets[TRAIN][0].ids),
            seed=entry.seed,
            learning_rate=entry.learning_rate,
            json_config=self.json_config,
            deepspeed=self.deepspeed,
        )
        with saved.held(engine.ranks):
            scores = finetune(
                engine, task, sets, self.config, seed=entry.seed, saved=saved, report=report
            )
        return {
            "epochs": scores,
            "num_examples": {name: len(texts.ids) for name, (texts, _) in sets.items()},
            "seconds": round(saved.seconds, 1),
        }

    def _sha256_of_weights(self) -> str:
        """Of their names and numbers, wherever they were read."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.model.weights.items()):
            digest.update(name.encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def write_sweep_run(
    entry: SweepRun, output: Path, settings: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Write a run's file."""
    record = {"format": FORMAT, "version": VERSION, **entry._asdict(), **found}
    files.write_file(
        entry.path(output), json.dumps(record | {"settings": dict(settings)}, indent=1) + "\n"
    )


def read_sweep_run(path: Path) -> dict[str, Any]:
    """A run's file.

    Raises:
        ValueError: if it is something else.
    """
    record = files.read_json_object(path)
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise ValueError(f"{path} is no result of tools/finetune_bert.py of version {VERSION}")
    return record


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
