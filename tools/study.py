r"""Many runs as one experiment: arms x seeds x budgets, one queue, one report.

python tools/study.py plan   STUDY.toml       what it will cost, before anything runs
python tools/study.py run    STUDY.toml       trains all that is not finished, then reports
python tools/study.py status STUDY.toml       how far each run is
python tools/study.py report STUDY.toml       report.md, report.json, report.png and results.jsonl

`run` goes on after any kill. With --slurm it queues an array of workers, on one machine it uses --parallel
runs at once; `work` is one worker.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron.command import run_command

import torch

from data_efficiency import ConfigError
from data_efficiency.command.parser import command_parser
from megatron.stopping import AGAIN
from megatron.study import (
    Job,
    Queue,
    Study,
    format_costs,
    is_prepared,
    jobs_of,
    make_slots,
    pilot_of,
    plan_costs,
    prepare_shared,
    read_study,
    requeue_this_task,
    runs_left,
    seeds_advice,
    submit_study,
    write_study_report,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("plan", "print what the study will cost, and how many seeds a difference needs"),
        ("run", "train what is not finished, then report"),
        ("status", "print how far each run is"),
        ("report", "write the report of what is finished"),
        ("prepare", "make what all runs share: corpus, tokens, index"),
        ("work", "be one worker of the queue"),
    ):
        of_command = commands.add_parser(name, help=text, description=text)
        of_command.may_be_negative = ("--difference",)
        of_command.may_be_empty = ("--sbatch",)
        add = of_command.add_argument
        add("study", type=Path, metavar="STUDY.toml", help="docs/studies.md has its form")
        add("--output", type=Path, metavar="FOLDER", help="of the runs, instead of the file's")
        add("--seeds", type=_numbers, metavar="N,N,...", help="instead of the file's")
        add(
            "--set",
            type=_pair,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="of the file's [values]",
        )
        if name in ("run", "work", "plan"):
            add(
                "--parallel",
                type=int,
                default=1,
                metavar="N",
                help="runs at once; cores are shared out",
            )
        if name == "plan":
            add(
                "--flops-per-second",
                type=float,
                metavar="N",
                help="of one run; else of finished runs",
            )
            add(
                "--difference",
                type=float,
                metavar="X",
                help="to be seen: how many seeds it needs",
            )
        if name == "run":
            add("--slurm", action="store_true", help="queue a SLURM array of workers")
            add("--workers", type=int, metavar="N", help="--slurm: at most; else one a run")
            add("--sbatch", default="", metavar="FLAGS", help='--slurm: "--partition=x --gpus=1"')
    return parser.parse_args(_joined(sys.argv[1:] if argv is None else argv, "--sbatch"))


def _joined(words: Sequence[str], flag: str) -> list[str]:
    """The words with a flag and its value as one: the value begins with a dash, which argparse takes for a flag."""
    found: list[str] = []
    for word in words:
        if found and found[-1] == flag:
            found[-1] = f"{flag}={word}"
        else:
            found.append(word)
    return found


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 1,2,3") from None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, value


def work(study: Study, jobs: Sequence[Job], parallel: int) -> int:
    """Prepare and run what is left; the queue's exit code."""
    refuse_before_the_pilot(study)
    if any(job.state != "finished" for job in jobs):
        prepare_shared(study, _say)
    slots = make_slots(parallel, num_devices=torch.cuda.device_count())
    code = Queue(study, jobs, slots, _say).run()
    if code == AGAIN:
        requeue_this_task()
    return code


def refuse_before_the_pilot(study: Study) -> None:
    """Raise ConfigError where the arms would not have what the pilot is to choose."""
    if left := len(runs_left(pilot_of(study))):
        raise ConfigError(
            f"{study.path}: its pilot, {study.pilot}, has {left} runs left: run it first, the arms take "
            "their settings from it"
        )


def submit(arguments: argparse.Namespace, study: Study, jobs: Sequence[Job]) -> int:
    """Queue the study on a cluster."""
    refuse_before_the_pilot(study)
    left = sum(job.state != "finished" for job in jobs)
    words = [
        str(arguments.study),
        *(("--output", str(arguments.output)) if arguments.output else ()),
    ]
    if arguments.seeds:
        words += ["--seeds", ",".join(map(str, arguments.seeds))]
    words += [word for name, value in arguments.set for word in ("--set", f"{name}={value}")]
    queued = submit_study(
        words,
        num_workers=max(1, min(left, arguments.workers or left)),
        parallel=arguments.parallel,
        prepares=not is_prepared(study),
        flags=shlex.split(arguments.sbatch),
        logs=study.output / "logs",
    )
    print(f"queued: {', '.join(queued)}; {left} runs are left")
    return 0


def print_plan(arguments: argparse.Namespace, study: Study, jobs: Sequence[Job]) -> None:
    """Print what the study will cost, and how many seeds a difference needs where one is given."""
    print(format_costs(plan_costs(jobs, arguments.flops_per_second), arguments.parallel))
    if left := len(runs_left(pilot_of(study))):
        print(f"\nThe pilot, {study.pilot}, has {left} runs left: arms are as they stand here.")
    if arguments.difference is not None:
        print(seeds_advice(study, jobs, arguments.difference))


def carry_out(arguments: argparse.Namespace) -> int:
    """Do what the subcommand says; its exit code."""
    study = read_study(
        arguments.study,
        seeds=arguments.seeds,
        output=arguments.output,
        values=dict(arguments.set),
    )
    jobs = jobs_of(study)
    if arguments.command == "plan":
        print_plan(arguments, study, jobs)
    elif arguments.command == "status":
        for job in jobs:
            print(f"{job.state:9} {job.name}")
    elif arguments.command == "prepare":
        prepare_shared(study, _say)
    elif arguments.command == "work":
        return work(study, jobs, arguments.parallel)
    elif arguments.command == "report":
        print(write_study_report(study, jobs))
    elif arguments.slurm:
        return submit(arguments, study, jobs)
    else:
        code = work(study, jobs, arguments.parallel)
        if code != AGAIN:
            print(write_study_report(study, jobs))
        return code
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 after an error or a failed run; 75 where the study was stopped and can go on."""
    return run_command(
        lambda words: carry_out(parse_arguments(words)),
        argv,
        when_stopped="stopped; the same command goes on from here",
    )


if __name__ == "__main__":
    raise SystemExit(main())
