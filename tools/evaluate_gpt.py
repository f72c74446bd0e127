"""Evaluates a GPT of ours on tasks of lm-eval, zero-shot or with examples; results as JSON.

python tools/evaluate_gpt.py --checkpoint runs/gpt --tasks hellaswag,piqa --output results/gpt.json
python tools/evaluate_gpt.py --checkpoint runs/gpt --tasks local --data-folder data --output out.json
torchrun --nproc_per_node 8 tools/evaluate_gpt.py ...    each process takes a share of the documents

Sets of tasks: published_zero_shot, published_few_shot (the 19 tasks of the published tables, from the
Hugging Face hub); local, local_few_shot (JSON files in --data-folder, no network).
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.command import run_command

from data_efficiency import files, leave_ranks
from data_efficiency.command.parser import command_parser
from megatron.evaluation.local_tasks import LOCAL_TASKS, VERSION, write_task_files
from megatron.evaluation.published_tasks import NEEDS_HARNESS, ROWS, expand
from megatron.evaluation.results import evaluation_record, is_finished, write_record
from megatron.migration import EVALUATION, own_words
from megatron.tokenizer import add_tokenizer_flags


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FOLDER", help="a run or a checkpoint")
    add("--tasks", metavar="NAME,NAME", help="tasks or sets of tasks, with commas between them")
    add("--output", type=Path, metavar="FILE", help="JSON file of the results")
    add("--num-fewshot", type=int, metavar="N", help="solved examples before each question")
    add("--data-folder", type=Path, metavar="FOLDER", help="files of the tasks named local_...")
    add_tokenizer_flags(parser, otherwise="else the one found with the model")
    add("--batch-size", type=int, default=8, metavar="N", help="default: 8")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights; default: float32",
    )
    add("--device", metavar="NAME", help="cpu, cuda:0, ...; else the GPU where there is one")
    add("--limit", type=int, metavar="N", help="only the first N items of each task")
    add("--log-samples", action="store_true", help="write each question and answer as well")
    add(
        "--keep-finished",
        action="store_true",
        help="do nothing if --output holds just this: checkpoint, tasks and settings",
    )
    add(
        "--list",
        choices=sorted(ROWS),
        help="print the tasks of a set, one job of about equal length a line, and stop",
    )
    add(
        "--write-task-files",
        type=Path,
        metavar="FOLDER",
        help="write the local tasks as files for lm_eval --include_path, and stop",
    )
    return parser.parse_args(None if argv is None else own_words(argv, EVALUATION))


def needed(arguments: argparse.Namespace, name: str) -> Any:
    """A flag's value.

    Raises:
        ValueError: if the flag was not given.
    """
    value = getattr(arguments, name)
    if value is None:
        raise ValueError(f"--{name.replace('_', '-')} is missing; --help shows examples")
    return value


def evaluate_checkpoint(arguments: argparse.Namespace) -> None:
    """Evaluates, writes the results and prints them."""
    tasks = expand([name.strip() for name in needed(arguments, "tasks").split(",") if name.strip()])
    checkpoint, output = needed(arguments, "checkpoint"), needed(arguments, "output")
    named = [arguments.tokenizer_file, arguments.vocab_file, arguments.merge_file]
    own = (file for file in checkpoint.rglob("*") if file.is_file())
    files.refuse_writing_over([output], [*named, *own])
    settings = {
        "requested_tasks": tasks,
        "num_fewshot": arguments.num_fewshot,
        "limit": arguments.limit,
        "dtype": arguments.dtype,
        "log_samples": arguments.log_samples,
    }
    local = [task for task in tasks if task in LOCAL_TASKS]
    if local and arguments.num_fewshot:
        settings["local_tasks_version"] = VERSION
    if arguments.keep_finished and is_finished(output, checkpoint, settings):
        print(f"{output} was finished before")
        return
    if len(local) == len(tasks):
        # Read when lm-eval is imported; nothing of these tasks is anywhere but here.
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as task_folder:
        if local:
            write_task_files(needed(arguments, "data_folder"), Path(task_folder), local)
        harness = import_harness()
        model = harness.HarnessModel(
            checkpoint,
            tokenizer_file=arguments.tokenizer_file,
            vocab_file=arguments.vocab_file,
            merge_file=arguments.merge_file,
            dtype=arguments.dtype,
            batch_size=arguments.batch_size,
            device=arguments.device,
        )
        started = time.monotonic()
        found = harness.evaluate_tasks(
            model,
            tasks,
            num_fewshot=arguments.num_fewshot,
            task_folder=Path(task_folder) if local else None,
            only_task_folder=len(local) == len(tasks),
            limit=arguments.limit,
            log_samples=arguments.log_samples,
        )
    if found is None:
        return
    record = evaluation_record(
        checkpoint,
        found,
        {**settings, "num_processes": model.world_size},
        seconds=round(time.monotonic() - started, 1),
    )
    write_record(output, record)
    for task, metrics in record["tasks"].items():
        print(f"{task:24s}", "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    print(f"Results: {output}")


def import_harness() -> Any:
    """The module that imports lm-eval, which takes seconds and is an extra."""
    # One line an item is what it would say.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        from megatron.evaluation import eval_harness  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("lm_eval"):
            raise
        raise ModuleNotFoundError(NEEDS_HARNESS) from error
    return eval_harness


def evaluate_or_list(arguments: argparse.Namespace) -> None:
    """Do what the flags ask for."""
    if arguments.list:
        print("\n".join(",".join(row) for row in ROWS[arguments.list]))
    elif arguments.write_task_files:
        write_task_files(needed(arguments, "data_folder"), arguments.write_task_files)
        print(json.dumps(list(LOCAL_TASKS)))
    else:
        try:
            evaluate_checkpoint(arguments)
        finally:
            leave_ranks()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after an evaluation, 1 after an error."""
    return run_command(lambda words: evaluate_or_list(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
