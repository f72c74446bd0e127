"""BERT finetuned by tools/finetune_bert.py and by a plain Hugging Face Trainer, with the same hyperparameters.

    OMP_NUM_THREADS=2 python -m benchmarks.finetuning_glue --model MODEL --data DATA --output results/glue [--check]

MODEL is a Hugging Face BERT, DATA a folder of task folders as docs/glue.md describes. Each side reads the texts with its own
tokenizer and draws its own output layers, orders and dropout, so the two differ by chance as two seeds do: what
is compared are means over seeds. Every finished run is one JSON file below --output, so a stopped comparison
goes on where it was, and more seeds may be added to it. The last line printed is one JSON object.
"""

import argparse
import contextlib
import hashlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron.tasks.glue_data import Examples, read_task
from megatron.tasks.glue_finetuning import FinetuningConfig
from megatron.tasks.glue_metrics import METRICS
from megatron.tasks.glue_sweep import Run, describe, is_done, read_record, write_record
from megatron.tasks.glue_tasks import TRAIN, Task
from tools import finetune_bert

OURS, PEER = SIDES = ("ours", "trainer")
# The same training twice: what is left between the means is chance.
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


# What a CPU trains in ten minutes each. With 4,000 examples at 1e-4 the first task stayed at its most frequent class.
SETTINGS = (
    Setting(task="vitaminc", max_train_examples=16000, epochs=1),
    Setting(task="multiemo", max_train_examples=12000, epochs=1),
    Setting(task="CoLA", epochs=2),
    Setting(task="RTE", epochs=3),
)
# The largest that was published for BERTs as small as these (Turc et al., 2019, "Well-Read Students Learn Better").
LEARNING_RATE = 3e-4
MAX_LENGTH = 64


def train_ours(options: argparse.Namespace, setting: Setting, seed: int) -> None:
    """Nothing; the run's file is written, unless it is there."""
    flags = {
        "checkpoint": options.model,
        "data": options.data,
        "output": options.output / OURS,
        "tasks": setting.task,
        "seeds": seed,
        "learning-rates": LEARNING_RATE,
        "epochs": setting.epochs,
        "max-length": MAX_LENGTH,
        "device": "cpu",
    }
    if setting.max_train_examples is not None:
        flags["max-train-examples"] = setting.max_train_examples
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    with contextlib.redirect_stdout(sys.stderr):
        if finetune_bert.main([*arguments, *(["--bf16"] if options.bf16 else [])]):
            raise RuntimeError("tools/finetune_bert.py failed: its error stands above")


def train_peer(options: argparse.Namespace, setting: Setting, seed: int) -> None:
    """Nothing; the run's file is written, unless it is there."""
    config = FinetuningConfig(epochs=setting.epochs, max_length=MAX_LENGTH, bf16=options.bf16)
    settings = describe(
        config,
        model=_digest(options.model),
        max_train_examples=setting.max_train_examples,
    )
    task, sets = read_task(options.data, setting.task)
    run = Run(task.name, LEARNING_RATE, seed)
    if is_done(run, options.output / PEER, settings):
        return
    started = time.monotonic()
    sets[TRAIN] = sets[TRAIN].first_rows(setting.max_train_examples)
    found = {
        "epochs": _with_trainer(options.model, task, sets, config, run),
        "num_examples": {name: len(examples.first) for name, examples in sets.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    write_record(run, options.output / PEER, settings, found)


def _with_trainer(
    model_folder: Path, task: Task, sets: dict[str, Examples], config: FinetuningConfig, run: Run
) -> list[dict[str, dict[str, float]]]:
    """The scores after each epoch, as `finetune` gives them."""
    # Only the peer pays for the import.
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(run.seed)
    assert task.labels is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_folder,
        num_labels=len(task.labels),
        attention_probs_dropout_prob=config.dropout,
        hidden_dropout_prob=config.dropout,
    )

    def scores(predictions: Any) -> dict[str, float]:
        predicted = np.asarray(predictions.predictions).argmax(1)
        expected = np.asarray(predictions.label_ids)
        return {name: 100 * METRICS[name](predicted, expected) for name in task.metrics}

    (dev_set,) = task.dev_sets
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=folder,
                num_train_epochs=config.epochs,
                per_device_train_batch_size=config.batch_size,
                per_device_eval_batch_size=64,
                learning_rate=run.learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=config.warmup_fraction,
                weight_decay=config.weight_decay,
                max_grad_norm=config.clip_grad,
                seed=run.seed,
                bf16=config.bf16,
                use_cpu=True,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                disable_tqdm=not sys.stderr.isatty(),
            ),
            train_dataset=_rows(tokenizer, sets[TRAIN], config.max_length),
            eval_dataset=_rows(tokenizer, sets[dev_set], config.max_length),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=scores,
        )
        trainer.train()
    return [
        {dev_set: {name: line[f"eval_{name}"] for name in task.metrics}}
        for line in trainer.state.log_history
        if f"eval_{task.metrics[0]}" in line
    ]


def _digest(model_folder: Path) -> str:
    """Of the files that hold the weights."""
    digest = hashlib.sha256()
    for path in sorted(model_folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _rows(tokenizer: Any, examples: Examples, max_length: int) -> list[dict[str, Any]]:
    texts = (examples.first,) if examples.second is None else (examples.first, examples.second)
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    names = list(encoded)
    return [
        dict(zip(names, row, strict=True)) | {"labels": int(label)}
        for row, label in zip(
            zip(*encoded.values(), strict=True), examples.labels.tolist(), strict=True
        )
    ]


def scores_of(output: Path, side: str, setting: Setting) -> dict[int, dict[str, float]]:
    """Seed -> metrics after the last epoch, of the finished runs."""
    folder = output / side / setting.task
    records = [read_record(path) for path in sorted(folder.glob(f"lr{LEARNING_RATE:g}_seed*"))]
    return {
        record["seed"]: next(iter(record["epochs"][-1].values()))
        for record in records
        if record["settings"]["max_train_examples"] == setting.max_train_examples
    }


def compare(
    setting: Setting, task: Task, dev: Examples, found: dict[str, dict[int, dict[str, float]]]
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
            squares = sum(statistics.variance(values[side]) for side in SIDES)
            figures[metric]["standard_error"] = round(math.sqrt(squares / len(seeds)), 2)
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
    """Task -> figures, after all runs."""
    started, pairs = time.monotonic(), [(seed, setting) for seed in seeds for setting in settings]
    for done, (seed, setting) in enumerate(pairs, start=1):
        train_ours(options, setting, seed)
        train_peer(options, setting, seed)
        left = (time.monotonic() - started) / done * (len(pairs) - done)
        print(f"{done} of {len(pairs)} pairs of runs, {left:.0f} s left", file=sys.stderr)
    figures = {}
    for setting in settings:
        task, sets = read_task(options.data, setting.task)
        found = {side: scores_of(options.output, side, setting) for side in SIDES}
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
    add("--output", type=Path, required=True, metavar="FOLDER", help="one JSON file a run")
    add("--tasks", metavar="NAME,NAME", help=f"of {', '.join(one.task for one in SETTINGS)}")
    add("--seeds", default="1234,1235,1236", metavar="N,N", help="default: %(default)s")
    add("--bf16", action="store_true", help="both sides compute in bfloat16")
    add("--check", action="store_true", help="exit 1 where a target is missed")
    options = parser.parse_args(argv)
    known = {setting.task: setting for setting in SETTINGS}
    names = options.tasks.split(",") if options.tasks else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"--tasks names {unknown[0]!r}: there are {', '.join(known)}")
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
