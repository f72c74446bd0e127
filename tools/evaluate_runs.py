"""Evaluates all checkpoints of a folder, zero-shot and with examples; then one table.

python tools/evaluate_runs.py --checkpoints runs/gpt --output results/gpt [flags of tools/evaluate_gpt.py]

Started again, it does what is missing or what a newer checkpoint made outdated. Several such programs share the
work, as the tasks of a SLURM array.
"""

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from megatron.command import STOPPED, run_command

import torch

from data_efficiency import files
from data_efficiency.command.parser import command_parser
from megatron.arguments import parse_run_config
from megatron.evaluation.checkpoint_tokenizer import tokenizer_for
from megatron.evaluation.local_tasks import LOCAL_TASKS, write_task_files
from megatron.evaluation.published_tasks import NEEDS_HARNESS, expand
from megatron.evaluation.sweep import (
    Evaluation,
    evaluations,
    find_checkpoints,
    rows_and_examples,
)
from megatron.study import Slot, make_slots, start_in_slot
from megatron.tokenizer import add_tokenizer_flags, named_tokenizer

TOOLS = Path(__file__).resolve().parent
POLL_SECONDS = 0.2


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what of it is for tools/evaluate_gpt.py."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add(
        "--checkpoints",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a run: each checkpoint it kept; a folder of runs: the latest of each; or one checkpoint",
    )
    add("--latest", action="store_true", help="of one run the latest checkpoint alone")
    add("--output", type=Path, required=True, metavar="FOLDER", help="results, and table.md")
    add(
        "--data-folder", metavar="FOLDER", help="files of the local tasks, which are then the tasks"
    )
    for name in ("zero-shot", "few-shot"):
        add(
            f"--{name}",
            metavar="ROWS",
            help="instead of the published or local ones: a set, rows of tasks with commas within, or none",
        )
    add("--num-fewshot", type=int, default=10, metavar="N", help="examples of --few-shot (10)")
    add("--num-processes", type=int, default=1, metavar="N", help="of each evaluation (1)")
    add(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="at once, on cores and GPUs in turn (1)",
    )
    add("--dry-run", action="store_true", help="print the commands and do nothing")
    add("--table", action="store_true", help="print the table of what is finished and stop")
    add(
        "--before-training",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT FLAG",
        help="say what would be in the way of evaluating what this training will save, and do nothing",
    )
    return parser.parse_known_args(argv)


def command_of(one: Evaluation, arguments: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """What evaluates, as a shell's words."""
    words = [sys.executable]
    if arguments.num_processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone"]
        words.append(f"--nproc_per_node={arguments.num_processes}")
    words += [str(TOOLS / "evaluate_gpt.py"), "--keep-finished"]
    words += ["--checkpoint", str(one.checkpoint), "--tasks", ",".join(one.tasks)]
    words += ["--num-fewshot", str(one.num_fewshot), "--output", str(one.output)]
    if arguments.data_folder is not None:
        words += ["--data-folder", arguments.data_folder]
    return [*words, *more]


def evaluate_missing(
    found: Sequence[Evaluation], commands: Sequence[Sequence[str]], slots: Sequence[Slot]
) -> None:
    """Run what no other program has in hand; one that fails does not stop the others.

    Raises:
        ValueError: at the end, if one failed.
    """
    start, failed, waiting = time.monotonic(), 0, list(zip(found, commands, strict=True))
    running: dict[int, tuple[Evaluation, subprocess.Popen[bytes], ExitStack]] = {}
    try:
        while waiting or running:
            for place in [n for n in range(len(slots)) if n not in running][: len(waiting)]:
                one, command = waiting.pop(0)
                claim = ExitStack()
                try:
                    claim.enter_context(files.file_lock(one.output.with_suffix(".lock")))
                except BlockingIOError:
                    print(f"another program has it: {one.title}", flush=True)
                    continue
                number = len(found) - len(waiting)
                seconds = (time.monotonic() - start) * (len(waiting) + 1) / max(1, number - 1)
                left = f" ({seconds:.0f} s left)" if number > 1 else ""
                print(f"[{number}/{len(found)}] {one.title}{left}", flush=True)
                running[place] = one, start_in_slot(command, slots[place]), claim
            time.sleep(POLL_SECONDS)
            for place, (one, process, claim) in [*running.items()]:
                if process.poll() is not None:
                    del running[place]
                    claim.close()
                    if process.returncode:
                        print(f"failed: {one.title}", file=sys.stderr)
                        failed += 1
    finally:
        for _, process, claim in running.values():
            process.terminate()
            process.wait()
            claim.close()
    if failed:
        raise ValueError(
            f"{failed} of {len(found)} did not end well; the same command does them again"
        )


def write_table(output: Path, found: Sequence[Evaluation], *, dry_run: bool) -> None:
    """Print the table, and write it to table.md and table.json.

    Raises:
        FileNotFoundError: if nothing is finished.
    """
    begun = [one for one in found if dry_run or any(one.folder.glob("*shot/*.json"))]
    if not begun:
        raise FileNotFoundError(f"--output is {output}: no evaluation in it is finished yet")
    runs = dict.fromkeys(f"{one.model}={one.folder}" for one in begun)
    command = [sys.executable, str(TOOLS / "gather_results.py")]
    command += [word for run in runs for word in ("--run", run)]
    command += ["--output", str(output / "table.json")]
    if dry_run:
        print(f"{shlex.join(command)} >{shlex.quote(str(output / 'table.md'))}")
        return
    table = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    (output / "table.md").write_text(table, encoding="utf-8")
    print(table, end="")


def check_training(
    arguments: argparse.Namespace, tasks: Sequence[str], more: Sequence[str]
) -> None:
    """Raise unless the model that a training will save can be evaluated on these tasks here.

    What is on the Hugging Face hub is not asked for.
    """
    script, *flags = arguments.before_training or [""]
    if script != "pretrain_gpt.py":
        raise ValueError(f"--before-training names {script!r}: the tasks are for pretrain_gpt.py")
    config = parse_run_config("", flags)
    parser = command_parser("")
    add_tokenizer_flags(parser)
    tokenizer = named_tokenizer(parser.parse_known_args(more)[0]) or named_tokenizer(config.data)
    tokenizer_for(Path(config.checkpoint.save or ""), config.model.vocab_size, tokenizer)
    if importlib.util.find_spec("lm_eval") is None:
        raise ModuleNotFoundError(NEEDS_HARNESS)
    local = [task for task in expand(tasks) if task in LOCAL_TASKS]
    if local:
        with tempfile.TemporaryDirectory() as folder:
            write_task_files(Path(arguments.data_folder or ""), Path(folder), local)


def evaluate_all(arguments: argparse.Namespace, more: Sequence[str]) -> None:
    """Do what the flags ask for."""
    is_local = arguments.data_folder is not None
    sets = (
        ("local", "local_few_shot") if is_local else ("published_zero_shot", "published_few_shot")
    )
    rows = rows_and_examples(
        arguments.zero_shot or sets[0], arguments.few_shot or sets[1], arguments.num_fewshot
    )
    if arguments.before_training is not None:
        check_training(arguments, [task for _, row in rows for task in row], more)
        return
    checkpoints = find_checkpoints(arguments.checkpoints, latest=arguments.latest)
    found = evaluations(checkpoints, arguments.output, rows)
    if arguments.table:
        write_table(arguments.output, found, dry_run=arguments.dry_run)
        return
    commands = [command_of(one, arguments, more) for one in found]
    if arguments.dry_run:
        print("".join(shlex.join(command) + "\n" for command in commands), end="")
    else:
        evaluate_missing(found, commands, slots_of(arguments.parallel, arguments.num_processes))
    missing = sum(not one.output.is_file() for one in found)
    if arguments.dry_run or not missing:
        write_table(arguments.output, found, dry_run=arguments.dry_run)
    else:
        print(f"{missing} are in the hands of other programs: the table is theirs, or --table's")


def slots_of(parallel: int, num_processes: int) -> list[Slot]:
    """Room for so many evaluations; one alone has the whole machine.

    Raises:
        ValueError: if each of several is to have several processes.
    """
    if parallel == 1:
        return [Slot(cores=())]
    if num_processes > 1:
        raise ValueError(
            f"--parallel is {parallel}: must be 1 with --num-processes {num_processes}"
        )
    return make_slots(parallel, num_devices=torch.cuda.device_count())


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 after an error or if an evaluation failed."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(TOOLS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return run_command(
        lambda words: evaluate_all(*parse_arguments(words)), argv, when_stopped=STOPPED
    )


if __name__ == "__main__":
    raise SystemExit(main())
