r"""Shows what a configuration will do before a single step is run: a table, the saving, warnings.

python tools/plan.py --config gpt_cl_ltd_300b --num-samples 1000000 [--lr 1e-3 ...]
python tools/plan.py ds_config.json --train-steps 20000 --num-samples 1000000 --seq-length 1024 \
    --num-layers 12 --hidden-size 768 --picture plan.png

A run file, or a shipped recipe's name, says model and length itself; flags of its program override it. Of a
finetuning run the published accounting is printed, and what it leaves out. The baseline is as many steps on
whole samples with nothing dropped; in the picture it is dotted.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from megatron.command import run_command

from data_efficiency import plan_run
from data_efficiency.command import plan_command
from data_efficiency.command.plan_command import add_plan_flags, refuse_picture_over, with_indexes
from data_efficiency.short_numbers import format_count
from megatron.arguments import make_parser, parse_run_config
from megatron.config import RUN_KINDS, GlueRunConfig, ModelConfig, RunConfig
from megatron.engine_json import engine_json, with_rows_of_buckets
from megatron.finetuning.plan import format_finetuning_plan
from megatron.recipes import SHIPPED, counted_shape, planned_cost, read_run_file
from megatron.run_state import model_shape, numbers_outside_layers
from megatron.stages import stage_starts

BY_DATA = {
    "reset_attention_mask": "how long documents are is not planned; FLOPs are those of rows that are one document each, "
    "at most so many (the log's attended_share says what attention computes of that)",
    "eod_mask_loss": "how many documents end is not planned; tokens in the loss are at most so many",
}
"""Setting -> what a plan cannot know of its work without the data."""
GUIDE = "docs/which_technique.md"


def plan_of_json(words: Sequence[str]) -> None:
    """Show the plan of a JSON file and flags; the model's flags are those of pretraining."""
    parser = make_parser(__doc__ or "", groups={"model": ModelConfig})
    plan_command.add_json_flags(parser)
    add_plan_flags(parser)
    arguments = parser.parse_args(words)
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    model_flags = {name: value for name, value in vars(arguments).items() if name in names}
    plan_command.plan_of_json(arguments, model_shape(ModelConfig(**model_flags)))


def plan_of_run(name: str, words: Sequence[str]) -> None:
    """Show the plan of a run file: the same walk, and so the same totals, as `tools/study.py plan`."""
    architecture: Any = read_run_file(SHIPPED, name).architecture or "gpt"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_plan_flags(parser)
    arguments, of_run = parser.parse_known_args(words)
    refuse_picture_over(arguments, name)
    # Of pretraining, a plan alone does not need to know where the data lie.
    more = {} if "data_path" not in RUN_KINDS[architecture].table_of else {"data_path": ("data",)}
    if not more and arguments.num_samples is not None:
        of_run += ["--num-samples", *map(str, arguments.num_samples)]
    config = parse_run_config(
        __doc__ or "", ["--config", name, *of_run], architecture=architecture, **more
    )
    if isinstance(config, GlueRunConfig):
        raise ValueError("the rows of a task are as long as its texts: nothing can be planned")
    if not isinstance(config, RunConfig):
        print(format_finetuning_plan(config))
        return
    if len(arguments.num_samples or ()) > 1:
        config = with_rows_of_buckets(config, arguments.num_samples)
    total = planned_cost(config, arguments.data_parallel_size)
    plan = plan_run(
        with_indexes(engine_json(config), arguments.index),
        model=counted_shape(config),
        sequence_length=config.data.seq_length,
        num_steps=total.steps,
        num_samples=arguments.num_samples,
        data_parallel_size=arguments.data_parallel_size,
    )
    plan_command.show(
        plan,
        arguments,
        bf16_weights=config.training.bf16_weights,
        outside=numbers_outside_layers(config.model),
        tensor_sizes=tensor_sizes(config),
        stage_starts=stage_starts(config, engine_json),
    )
    print(
        f"\nwhole run: {total.steps:,} steps, {format_count(total.corpus_tokens)} corpus tokens, "
        f"{format_count(total.layer_tokens)} layer tokens, {format_count(total.flops)} FLOPs"
    )
    for flag, sentence in BY_DATA.items():
        if getattr(config.data, flag, False):
            print(f"\n--{flag.replace('_', '-')}: {sentence}")


def tensor_sizes(config: RunConfig) -> list[int]:
    """Numbers of processes, as many as one machine has, that could share the run's layers and rows evenly."""
    sizes: list[int] = []
    if config.training.bf16_weights:
        return sizes
    for size in (2, 4, 8):
        with contextlib.suppress(ValueError):
            config.model.require_even_parts(size)
            sizes += [] if config.data.seq_length % size else [size]
    return sizes


def carry_out(words: Sequence[str]) -> None:
    """Plan what the command line names: a run file or a JSON file."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    found, rest = first.parse_known_args(words)
    if found.config is None:
        plan_of_json(rest)
    else:
        plan_of_run(found.config, rest)
    print(f"\nwhat pays, as far as it was measured: {GUIDE}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, also where there are warnings; 1 after an error."""
    return run_command(carry_out, argv)


if __name__ == "__main__":
    raise SystemExit(main())
