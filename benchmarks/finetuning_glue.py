"""BERT finetuned by tools/finetune_bert.py and by a plain Hugging Face Trainer, with the same hyperparameters.

    OMP_NUM_THREADS=2 python -m benchmarks.finetuning_glue --model MODEL --data DATA --output results/glue [--check]

MODEL is a Hugging Face BERT, DATA a folder of task folders as docs/glue.md describes. Each side reads the texts with its own
tokenizer and trains its own model in its own loop. Two seeds of one program differ by more than the point that is
looked for, so what a seed decides is the same on both sides: the first output layer and the order of the examples; there is
no dropout. What is left is rounding, which training amplifies. Every finished run is kept below --output: a stopped
comparison goes on where it was, more seeds may be added to it, and several programs can share it by --tasks, --seeds and
--sides. The last line printed is one JSON object.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency import files
from megatron.config import GlueTrainingConfig
from megatron.finetuning.data import Examples, read_task
from megatron.finetuning.metrics import METRICS
from megatron.finetuning.tasks import TRAIN, GlueTask
from megatron.reporting import read_log
from tools import finetune_bert

OURS, PEER = SIDES = ("ours", "trainer")
# The same training twice: what is left between the means is rounding.
LARGEST_DIFFERENCE = 1.0
# A model that learned nothing stays within one or two points of the most frequent class.
LEAST_ABOVE_MAJORITY = 5.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One task and what is not the same for all."""

    task: str
    max_train_examples: int | None = None
    """The first so many, None for all."""
    epochs: int


# With a learning rate of 3e-4 and dropout, 16,000 examples of the first task, 2 epochs of CoLA and 3 of RTE left a
# BERT of 22M parameters mostly at the most frequent class, on both sides.
SETTINGS = (
    Setting(task="vitaminc", max_train_examples=40000, epochs=1),
    Setting(task="multiemo", max_train_examples=12000, epochs=1),
    Setting(task="CoLA", epochs=4),
    Setting(task="RTE", epochs=3),
)
LEARNING_RATE = 1e-4
MAX_LENGTH = 64


def settings_of(setting: Setting, seed: int, bf16: bool) -> dict[str, Any]:
    """What both sides are told, as flags of tools/finetune_bert.py."""
    flags = {"task": setting.task, "seed": seed, "lr": LEARNING_RATE, "epochs": setting.epochs}
    flags |= {"max_length": MAX_LENGTH, "dropout": 0.0, "bf16": bf16}
    if setting.max_train_examples is not None:
        flags["max_train_examples"] = setting.max_train_examples
    return flags


def folder_of(output: Path, side: str, setting: Setting, seed: int) -> Path:
    """Of one run; other examples are another run."""
    examples = setting.max_train_examples or "all"
    return output / side / setting.task / f"{examples}_{setting.epochs}epochs" / f"seed{seed}"


def train_ours(options: argparse.Namespace, setting: Setting, seed: int) -> None:
    """Train a run that is not finished."""
    flags = {"pretrained": options.model, "data": options.data}
    flags |= settings_of(setting, seed, options.bf16)
    flags["save"] = folder_of(options.output, OURS, setting, seed)
    flags.pop("bf16")
    words = [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    with contextlib.redirect_stdout(sys.stderr):
        if finetune_bert.main([*words, *(["--bf16"] if options.bf16 else [])]):
            raise RuntimeError("tools/finetune_bert.py failed: its error stands above")


def train_peer(options: argparse.Namespace, setting: Setting, seed: int) -> None:
    """Write the scores of a run, unless they are there."""
    # Only the peer pays for the import.
    from benchmarks.glue_trainer import finetune_with_trainer  # noqa: PLC0415

    path = folder_of(options.output, PEER, setting, seed) / "scores.json"
    if path.is_file():
        return
    flags = settings_of(setting, seed, options.bf16)
    names = {field.name for field in fields(GlueTrainingConfig)}
    config = GlueTrainingConfig(**{k: v for k, v in flags.items() if k in names})
    task, sets = read_task(options.data, setting.task)
    sets[TRAIN] = sets[TRAIN].first_rows(setting.max_train_examples)
    found = finetune_with_trainer(options.model, task, sets, config, MAX_LENGTH)
    files.write_file(path, json.dumps(found) + "\n")


def scores_of(output: Path, side: str, setting: Setting) -> dict[int, dict[str, float]]:
    """Seed -> metrics after the last epoch, of the finished runs."""
    found = {}
    for folder in sorted(folder_of(output, side, setting, 0).parent.glob("seed*")):
        seed = int(folder.name.removeprefix("seed"))
        if side == PEER:
            found[seed] = json.loads((folder / "scores.json").read_text())[-1]
        elif (log := read_log(folder)).end is not None:
            first = [one["name"] for one in log.start["measures"]]
            part = first[0].split()[0]
            names = [name for name in first if name.startswith(f"{part} ")]
            found[seed] = {name.removeprefix(f"{part} "): log.valid[-1][name] for name in names}
    return found


def compare(
    setting: Setting,
    task: GlueTask,
    dev: Examples,
    found: dict[str, dict[int, dict[str, float]]],
) -> dict[str, Any]:
    """The figures of one task over the seeds that both sides have finished."""
    seeds = sorted(found[OURS].keys() & found[PEER].keys())
    figures: dict[str, Any] = {"num_seeds": len(seeds), "num_dev_examples": len(dev.first)}
    for metric in task.metrics:
        values = {side: [found[side][seed][metric] for seed in seeds] for side in SIDES}
        means = {side: statistics.mean(values[side]) for side in SIDES}
        majority = np.full(len(dev.labels), np.bincount(dev.labels.astype(np.int64)).argmax())
        figures[metric] = {
            **{side: round(means[side], 2) for side in SIDES},
            **{f"{side}_spread": _spread(values[side]) for side in SIDES},
            "majority_class": round(100 * METRICS[metric](majority, dev.labels), 2),
            "difference": round(means[OURS] - means[PEER], 2),
        }
        if len(seeds) > 1:
            pairs = zip(values[OURS], values[PEER], strict=True)
            spread = statistics.stdev(ours - theirs for ours, theirs in pairs)
            figures[metric]["standard_error"] = round(spread / math.sqrt(len(seeds)), 2)
    return figures | {"epochs": setting.epochs}


def _spread(values: Sequence[float]) -> float | None:
    return round(statistics.stdev(values), 2) if len(values) > 1 else None


def misses(figures: dict[str, Any]) -> list[str]:
    """A line for each target that the figures do not reach, by the first metric of each task."""
    found = []
    for task, named in figures.items():
        metric, values = next((name, v) for name, v in named.items() if isinstance(v, dict))
        if abs(values["difference"]) > LARGEST_DIFFERENCE:
            found.append(
                f"{task}: {metric} is {values['difference']:+} beside the Trainer's,"
                f" not within {LARGEST_DIFFERENCE}"
            )
        above = round(values[OURS] - values["majority_class"], 2)
        if above < LEAST_ABOVE_MAJORITY:
            found.append(
                f"{task}: {metric} is {above:+} beside the majority class, not {LEAST_ABOVE_MAJORITY}"
            )
    return found


def measure(
    options: argparse.Namespace, settings: Sequence[Setting], seeds: Sequence[int]
) -> dict[str, Any]:
    """Task -> figures, after all runs; without the tasks of which a side is missing."""
    train = {OURS: train_ours, PEER: train_peer}
    runs = [
        (train[side], setting, seed)
        for seed in seeds
        for setting in settings
        for side in options.sides.split(",")
    ]
    started = time.monotonic()
    for done, (train_one, setting, seed) in enumerate(runs, start=1):
        train_one(options, setting, seed)
        left = (time.monotonic() - started) / done * (len(runs) - done)
        print(f"{done} of {len(runs)} runs, {left:.0f} s left", file=sys.stderr)
    figures = {}
    for setting in settings:
        task, sets = read_task(options.data, setting.task)
        found = {side: scores_of(options.output, side, setting) for side in SIDES}
        if not found[OURS].keys() & found[PEER].keys():
            continue
        figures[task.name] = compare(setting, task, sets[task.dev_sets[0]], found)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown: a row for each metric of each task."""
    lines = [
        "| task | metric | majority class | Trainer | ours | difference (standard error) | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, named in figures.items():
        for metric, values in named.items():
            if isinstance(values, dict):
                error = values.get("standard_error")
                lines.append(
                    f"| {task} | {metric} | {values['majority_class']:.2f}"
                    f" | {_cell(values, PEER)} | {_cell(values, OURS)} | {values['difference']:+.2f}"
                    f" ({'-' if error is None else format(error, '.2f')}) | {named['num_seeds']} |"
                )
    return "\n".join(lines)


def _cell(values: dict[str, Any], side: str) -> str:
    spread = values[f"{side}_spread"]
    return f"{values[side]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 if `--check` is given and a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="a Hugging Face BERT")
    add("--data", type=Path, required=True, metavar="FOLDER", help="folder of the tasks' folders")
    add("--output", type=Path, required=True, metavar="FOLDER", help="the runs of both sides")
    add("--tasks", metavar="NAME,NAME", help=f"of {', '.join(one.task for one in SETTINGS)}")
    add("--seeds", default="1234,1235,1236", metavar="N,N", help="default: %(default)s")
    add("--sides", default=",".join(SIDES), metavar="NAME,NAME", help="default: %(default)s")
    add("--bf16", action="store_true", help="both sides compute in bfloat16")
    add("--check", action="store_true", help="exit 1 where a target is missed")
    options = parser.parse_args(argv)
    known = {setting.task: setting for setting in SETTINGS}
    names = options.tasks.split(",") if options.tasks else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"--tasks names {unknown[0]!r}: there are {', '.join(known)}")
    if not set(options.sides.split(",")) <= set(SIDES):
        parser.error(f"--sides is {options.sides!r}: there are {', '.join(SIDES)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    figures = measure(options, [known[name] for name in names], seeds)
    print(table(figures))
    missed = misses(figures) if options.check else []
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    print(json.dumps(figures))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
