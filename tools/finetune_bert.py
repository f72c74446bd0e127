"""Finetunes a BERT on GLUE, or on a classification of your own: tasks x learning rates x seeds.

python tools/finetune_bert.py --checkpoint runs/bert --data glue --output results/bert
python tools/finetune_bert.py --checkpoint runs/bert --data glue --output results/bert --tasks RTE,CoLA --seeds 1234
python tools/finetune_bert.py --output results/bert --table     the table of what is finished

The checkpoint is a run of ours or a Hugging Face BERT. Finished runs are left as they are, so a stopped
sweep goes on where it was. The defaults are the published hyperparameters. Scores are of the development
sets; no test file is read.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from megatron.arguments import command_parser
from megatron.command import run_command
from megatron.conversion.model import Model
from megatron.finetuning.classifier import read_bert
from megatron.finetuning.data import HUB, read_task
from megatron.finetuning.inputs import make_rows
from megatron.finetuning.sweep import (
    PUBLISHED_LEARNING_RATES,
    PUBLISHED_SEEDS,
    SweepRun,
    execute,
    is_done,
    read_sweep_run,
    shared_settings,
    table,
    write_sweep_run,
)
from megatron.finetuning.tasks import GLUE, task_named
from megatron.finetuning.training import FinetuningConfig


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add, config = parser.add_argument, FinetuningConfig()
    add("--checkpoint", type=Path, metavar="FOLDER", help="the pretrained BERT")
    add("--tokenizer-file", type=Path, metavar="FILE", help="tokenizer.json, if not with the model")
    add("--data", metavar="FOLDER", help=f"folder of the tasks' folders, or '{HUB}'")
    add("--output", type=Path, required=True, metavar="FOLDER", help="one JSON file a run")
    add("--tasks", default=",".join(GLUE), metavar="NAME,NAME", help="default: %(default)s")
    add("--seeds", default=_joined(PUBLISHED_SEEDS), metavar="N,N", help="default: %(default)s")
    add(
        "--learning-rates",
        default=_joined(PUBLISHED_LEARNING_RATES),
        metavar="X,X",
        help="default: %(default)s",
    )
    for name, value in vars(config).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            add(flag, action="store_true", help="forward and backward pass in bfloat16")
        else:
            add(flag, type=type(value), default=value, metavar="N", help="default: %(default)s")
    add("--random-ltd", type=Path, metavar="FILE", help="drop tokens as this JSON file says")
    add("--max-train-examples", type=int, metavar="N", help="only the first N, for a quick look")
    add("--device", metavar="NAME", help="cpu, cuda:0, ...; else the GPU where there is one")
    add("--num-workers", type=int, default=1, metavar="N", help="programs that share the sweep")
    add("--worker-id", type=int, default=0, metavar="N", help="which of them this is, from 0")
    add("--table", action="store_true", help="print the table of the finished runs and stop")
    return parser.parse_args(argv)


def sweep(arguments: argparse.Namespace) -> None:
    """Executes what is not finished of this worker's share."""
    if arguments.checkpoint is None or arguments.data is None:
        raise ValueError("--checkpoint and --data are needed; --help shows examples")
    config = FinetuningConfig(
        **{name: getattr(arguments, name) for name in vars(FinetuningConfig())}
    )
    tasks = [task_named(name.strip()).name for name in arguments.tasks.split(",")]
    rates = [float(rate) for rate in arguments.learning_rates.split(",")]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runs = [SweepRun(task, rate, seed) for task in tasks for rate in rates for seed in seeds]
    if not 0 <= arguments.worker_id < arguments.num_workers:
        raise ValueError(f"--worker-id is {arguments.worker_id}: must be 0 to --num-workers - 1")
    mine = runs[arguments.worker_id :: arguments.num_workers]
    model, tokenizer = read_bert(arguments.checkpoint, arguments.tokenizer_file)
    if config.max_length > model.config.max_position_embeddings:
        raise ValueError(
            f"--max-length is {config.max_length}: the model has"
            f" {model.config.max_position_embeddings} positions"
        )
    random_ltd = json.loads(arguments.random_ltd.read_text()) if arguments.random_ltd else None
    settings = shared_settings(
        config,
        model=_identity(model),
        random_ltd=random_ltd,
        max_train_examples=arguments.max_train_examples,
    )
    open_runs = [run for run in mine if not is_done(run, arguments.output, settings)]
    print(f"{len(mine)} runs, {len(mine) - len(open_runs)} of them finished before", flush=True)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for name in dict.fromkeys(run.task for run in open_runs):
        task, examples = read_task(arguments.data, name)
        sets = {}
        for part, found in examples.items():
            kept = found.first_rows(arguments.max_train_examples if part == "train" else None)
            sets[part] = (make_rows(kept, tokenizer, config.max_length), kept)
        for run in (run for run in open_runs if run.task == name):
            with tqdm(desc=" ".join(map(str, run)), unit="step", mininterval=1.0) as bar:

                def report(done: int, total: int, loss: float, bar: tqdm = bar) -> None:
                    bar.total = total
                    bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                    bar.update(done - bar.n)

                found_scores = execute(
                    run,
                    task,
                    sets,
                    model,
                    config,
                    device=device,
                    random_ltd=random_ltd,
                    report=report,
                )
            write_sweep_run(run, arguments.output, settings, found_scores)
            print(
                f"{run.path(arguments.output)}: {json.dumps(found_scores['epochs'][-1])}",
                flush=True,
            )


def print_table(output: Path) -> None:
    """Prints the table of the runs in a folder."""
    print(table(read_sweep_run(path) for path in sorted(output.glob("*/lr*_seed*.json"))))


def _identity(model: Model) -> str:
    """SHA-256 of the weights, wherever they were read."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.weights.items()):
        digest.update(name.encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def sweep_and_print(arguments: argparse.Namespace) -> None:
    """Run the sweep and print its table, or the table alone."""
    if not arguments.table:
        sweep(arguments)
    print_table(arguments.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a sweep, 1 after an error."""
    return run_command(lambda: sweep_and_print(parse_arguments(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
