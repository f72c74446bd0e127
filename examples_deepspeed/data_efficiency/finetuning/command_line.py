"""The flags that both examples have, what they become, and how the commands end."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch.distributed

from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, LearningRate
from examples_deepspeed.data_efficiency.finetuning.recipe import VARIANTS, Scale, read_recipe
from examples_deepspeed.data_efficiency.finetuning.task import RunSettings

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
    """Adds recipe, variant, engine, seeds, folders, and the size and rates of a run."""
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
    parser.add_argument("--epochs", type=float, default=2.0, help="of the baseline: the budget")
    parser.add_argument("--batch-size", type=int, help='"auto" global batch')
    parser.add_argument("--micro-batch-size", type=int, help='"auto" forward pass of a process')
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="its peak")
    parser.add_argument("--lr-decay", choices=("constant", "linear", "thirds"), default="constant")
    parser.add_argument("--warmup-steps", type=int, default=0, help="optimizer steps")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def run_recipe(
    arguments: argparse.Namespace,
    *,
    num_layers: int,
    length: int,
    num_samples: int,
    seed: int,
    always_keep: tuple[int, ...] | None = None,
) -> Any:
    """The configuration of the chosen variant, its schedules scaled to the run.

    Args:
        arguments: with the flags of `add_run_flags`.
        num_layers: of the model.
        length: positions of a row.
        num_samples: of the training data.
        seed: of the run.
        always_keep: positions that no layer drops.

    Raises:
        ConfigError, ValueError: as `read_recipe` does.
    """
    scale = Scale(
        num_layers=num_layers,
        length=length,
        num_samples=num_samples,
        epochs=arguments.epochs,
        seed=seed,
        batch_size=arguments.batch_size,
        micro_batch_size=arguments.micro_batch_size,
        bf16=arguments.bf16,
        start_length=arguments.start_length,
        curriculum_start=arguments.curriculum_start,
        random_ltd_share=arguments.random_ltd_share,
        curriculum_share=arguments.curriculum_share,
        index_path=arguments.index,
        always_keep=always_keep,
    )
    return read_recipe(arguments.recipe, arguments.variant, scale)


def run_settings(
    arguments: argparse.Namespace, seed: int, budget: Budget, data: Mapping[str, Any]
) -> RunSettings:
    """The settings of one seed, in a folder of its own below --save.

    Args:
        arguments: with the flags of `add_run_flags`.
        seed: of the run.
        budget: when it is over.
        data: plain JSON data that says what it trains and is measured on.
    """
    return RunSettings(
        folder=Path(arguments.save) / arguments.variant / f"seed{seed}",
        budget=budget,
        learning_rate=LearningRate(
            peak=arguments.learning_rate,
            decay=arguments.lr_decay,
            warmup_steps=arguments.warmup_steps,
        ),
        seed=seed,
        eval_interval_steps=arguments.eval_interval,
        save_interval_steps=arguments.save_interval,
        description={**_description_of(arguments, seed), "data_identity": data},
    )


def _description_of(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The flags that make a run what it is, as plain JSON data."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(arguments).items()
        if name not in _NOT_PART_OF_A_RUN
    }
    return {**values, "recipe": Path(arguments.recipe).read_text(), "seed": seed}


@contextlib.contextmanager
def print_errors_in_one_line(*errors: type[Exception]) -> Iterator[None]:
    """Ends the process with code 1 and one line where one of the errors is raised."""
    try:
        yield
    except errors as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
