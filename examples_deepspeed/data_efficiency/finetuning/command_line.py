"""The flags that both examples have, and how their commands end."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed

from examples_deepspeed.data_efficiency.finetuning.recipe import VARIANTS

# Where a run stands, how it is computed and how often it looks up: nothing that is part of what it is.
_NOT_PART_OF_A_RUN = frozenset(
    {
        "save",
        "engine",
        "seeds",
        "plan",
        "export",
        "save_interval",
        "local_rank",
        "num_blocks",
        "data_folder",
        "text",
    }
)


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds recipe, variant, engine, seeds and folders."""
    parser.add_argument("--recipe", required=True, help="JSON file in DeepSpeed's form")
    parser.add_argument(
        "--variant", choices=VARIANTS, default="both", help="which techniques of the recipe stay"
    )
    parser.add_argument("--engine", choices=("torch", "deepspeed"), default="torch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1234], help="one run each")
    parser.add_argument("--save", default="runs/finetuning", help="folder of runs and results")
    parser.add_argument("--export", action="store_true", help="write the finetuned model")
    parser.add_argument("--plan", action="store_true", help="print the accounting; train nothing")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument(
        "--start-length", type=int, help='"auto" positions kept at first; if not given an eighth'
    )
    parser.add_argument(
        "--curriculum-start", type=int, help='"auto" length of the first rows; else a 32nd'
    )
    parser.add_argument(
        "--random-ltd-share", type=float, default=0.3, help='"auto" part of the baseline\'s steps'
    )
    parser.add_argument("--curriculum-share", type=float, default=0.7, help="likewise")
    parser.add_argument("--index", help='"auto" difficulty index of metrics that select samples')
    parser.add_argument("--eval-batch-size", type=int, default=4)
    parser.add_argument("--eval-interval", type=int, default=50, help="optimizer steps")
    parser.add_argument("--save-interval", type=int, default=50, help="optimizer steps")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def description_of(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The settings that make a run what it is, as plain JSON data."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(arguments).items()
        if name not in _NOT_PART_OF_A_RUN
    }
    return {**values, "recipe": Path(arguments.recipe).read_text(), "seed": seed}


def run_folder(arguments: argparse.Namespace, seed: int) -> Path:
    """Where one variant and seed stand."""
    return Path(arguments.save) / arguments.variant / f"seed{seed}"


@contextlib.contextmanager
def print_errors_in_one_line(*errors: type[Exception]) -> Iterator[None]:
    """Ends the process with code 1 and one line where one of the errors is raised."""
    try:
        yield
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
