"""Finetunes a BERT on GLUE, or on a classification of your own: tasks x learning rates x seeds.

python tools/finetune_bert.py --checkpoint runs/bert --data glue --output results/bert
python tools/finetune_bert.py --checkpoint runs/bert --data glue --output results/bert --tasks RTE,CoLA --seeds 1234
python tools/finetune_bert.py --output results/bert --table     the table of what is finished

torchrun --nproc_per_node 8 tools/finetune_bert.py --checkpoint ...      each run on 8 processes

The checkpoint is a run of ours or a Hugging Face BERT. Finished runs are left as they are and one that was
stopped goes on from its last checkpoint, so a stopped sweep goes on where it was. The defaults are the
published hyperparameters. Scores are of the development sets; no test file is read.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch
import torch.distributed
from tqdm import tqdm

from data_efficiency import (
    Ranks,
    files,
    leave_ranks,
    naming_lost_processes,
    read_json,
    start_ranks,
    watching_processes,
)
from megatron.arguments import command_parser
from megatron.checkpoint.saved_run import SavedRun
from megatron.finetuning.classifier import read_bert
from megatron.finetuning.data import HUB, read_task
from megatron.finetuning.inputs import make_rows
from megatron.finetuning.sweep import (
    PUBLISHED_LEARNING_RATES,
    PUBLISHED_SEEDS,
    Sweep,
    SweepRun,
    is_done,
    read_sweep_run,
    table,
    write_sweep_run,
)
from megatron.finetuning.tasks import GLUE, TRAIN, task_named
from megatron.finetuning.training import FinetuningConfig

SWITCHES = {
    "bf16": "forward and backward pass in bfloat16",
    "group_by_length": "batches of similar length: less padding, not the published order",
}


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
            add(flag, action="store_true", help=SWITCHES[name])
        else:
            add(flag, type=type(value), default=value, metavar="N", help="default: %(default)s")
    add("--deepspeed-config", metavar="FILE", help="JSON file: token dropping, ZeRO stage")
    add("--deepspeed", action="store_true", help="train on DeepSpeed instead of plain PyTorch")
    add("--save-interval", type=int, default=1000, metavar="STEPS", help="default: %(default)s")
    add("--max-train-examples", type=int, metavar="N", help="only the first N, for a quick look")
    add("--num-workers", type=int, default=1, metavar="N", help="programs that share the sweep")
    add("--worker-id", type=int, default=0, metavar="N", help="which of them this is, from 0")
    add("--table", action="store_true", help="print the table of the finished runs and stop")
    return parser.parse_args(argv)


def sweep(arguments: argparse.Namespace, ranks: Ranks) -> None:
    """Executes what is not finished of this worker's share."""
    if arguments.checkpoint is None or arguments.data is None:
        raise ValueError("--checkpoint and --data are needed; --help shows examples")
    config = FinetuningConfig(
        **{name: getattr(arguments, name) for name in vars(FinetuningConfig())}
    )
    tasks = [task_named(name.strip()).name for name in arguments.tasks.split(",")]
    rates = [float(rate) for rate in arguments.learning_rates.split(",")]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    entries = [SweepRun(task, rate, seed) for task in tasks for rate in rates for seed in seeds]
    if not 0 <= arguments.worker_id < arguments.num_workers:
        raise ValueError(f"--worker-id is {arguments.worker_id}: must be 0 to --num-workers - 1")
    mine = entries[arguments.worker_id :: arguments.num_workers]
    model, tokenizer = read_bert(arguments.checkpoint, arguments.tokenizer_file)
    if config.max_length > model.config.max_position_embeddings:
        raise ValueError(
            f"--max-length is {config.max_length}: the model has"
            f" {model.config.max_position_embeddings} positions"
        )
    path = arguments.deepspeed_config
    shared = Sweep(
        model=model,
        config=config,
        json_config=None if path is None else read_json(path),
        deepspeed=arguments.deepspeed,
        max_train_examples=arguments.max_train_examples,
    )
    missing = [entry for entry in mine if not is_done(entry, arguments.output, shared.settings)]
    # Process 0 writes results while the others may still be looking.
    ranks.wait()
    _say(ranks, f"{len(mine)} runs, {len(mine) - len(missing)} of them finished before")
    for name in dict.fromkeys(entry.task for entry in missing):
        task, examples = read_task(arguments.data, name)
        sets = {}
        for part, found in examples.items():
            kept = found.first_rows(arguments.max_train_examples if part == TRAIN else None)
            sets[part] = (make_rows(kept, tokenizer, config.max_length), kept)
        for entry in (entry for entry in missing if entry.task == name):
            saved = SavedRun(
                folder=entry.path(arguments.output).with_suffix(""),
                interval=arguments.save_interval,
                settings=shared.settings,
            )
            with _ProgressBar(entry, ranks) as bar:
                result = shared.execute(entry, task, sets, saved, bar.report)
            if ranks.is_first:
                write_sweep_run(entry, arguments.output, shared.settings, result)
                saved.remove()
            _say(ranks, f"{entry.path(arguments.output)}: {json.dumps(result['epochs'][-1])}")


class _ProgressBar(tqdm):
    """Steps of one run on the terminal of process 0."""

    def __init__(self, entry: SweepRun, ranks: Ranks) -> None:
        super().__init__(
            desc=" ".join(map(str, entry)),
            unit="step",
            mininterval=1.0,
            disable=not ranks.is_first,
        )

    def report(self, done: int, total: int, loss: float) -> None:
        """Show a step."""
        self.total = total
        self.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.update(done - self.n)


def _say(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        print(text, flush=True)


def print_table(output: Path) -> None:
    """Prints the table of the runs in a folder."""
    with files.reading(f"one of the runs in {output}"):
        print(table(read_sweep_run(path) for path in sorted(output.glob("*/lr*_seed*.json"))))


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


@naming_lost_processes()
def finetune_and_print(arguments: argparse.Namespace) -> None:
    """The sweep and its table, on one process or on several; or the table alone."""
    if arguments.table:
        print_table(arguments.output)
        return
    started_before = torch.distributed.is_initialized()
    ranks = start_ranks()
    try:
        with watching_processes(ranks):
            sweep(arguments, ranks)
        if ranks.is_first:
            print_table(arguments.output)
    finally:
        if torch.distributed.is_initialized() and not started_before:
            leave_ranks()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a sweep, 1 after an error."""
    return run_command(lambda words: finetune_and_print(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
