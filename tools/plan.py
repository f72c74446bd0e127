r"""Shows what a configuration will do before a single step is run: a table, the saving, warnings.

python tools/plan.py --config gpt_cl_ltd_300b --num-samples 1000000 [--lr 1e-3 ...]
python tools/plan.py ds_config.json --train-steps 20000 --num-samples 1000000 --seq-length 1024 \
    --num-layers 12 --hidden-size 768 --picture plan.png

A run file, or a shipped recipe's name, says model and length itself; flags of its program override it. Of a
finetuning run the published accounting is printed, and what it leaves out. The baseline is as many steps on
whole samples with nothing dropped; in the picture it is dotted.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from megatron.command import run_command

from data_efficiency import (
    ConfigError,
    DecayEnd,
    RunPlan,
    files,
    load_config,
    plan_run,
    plan_warnings,
)
from data_efficiency.config import Config, read_json
from megatron.arguments import make_parser, parse_run_config
from megatron.config import RUN_KINDS, GlueRunConfig, ModelConfig, RunConfig
from megatron.engine_json import engine_json
from megatron.finetuning.plan import format_finetuning_plan
from megatron.recipes import SHIPPED, counted_shape, planned_cost, read_run_file
from megatron.reporting import format_plan, plot_plan
from megatron.reporting.progress_line import format_count
from megatron.run_state import model_shape


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a JSON file's plan; the model's flags are those of pretraining."""
    parser = make_parser(__doc__ or "", groups={"model": ModelConfig})
    add = parser.add_argument
    add("json", metavar="CONFIG.json", help="JSON file in DeepSpeed's form")
    add("--train-steps", type=int, required=True, metavar="N", help="optimizer steps")
    add("--seq-length", type=int, required=True, metavar="N", help="of a sample")
    add("--global-batch-size", type=int, metavar="N", help="if not in the file")
    add("--micro-batch-size", type=int, metavar="N", help="if not in the file")
    add_plan_flags(parser)
    return parser.parse_args(argv)


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is asked of a plan, whatever it is read from."""
    add = parser.add_argument
    either = parser.add_mutually_exclusive_group().add_argument
    either(
        "--num-samples",
        type=int,
        metavar="N",
        help="samples of the dataset, if no index is at hand",
    )
    either(
        "--index",
        action="append",
        default=[],
        metavar="METRIC=FOLDER",
        help="a metric's difficulty index; without this and --num-samples the file's are read",
    )
    add("--data-parallel-size", type=int, default=1, metavar="N", help="processes")
    add(
        "--lr-decay",
        metavar="AMOUNT=UNIT",
        help="where the learning rate is at its minimum; units are steps, samples, corpus, loss and "
        "effective (tokens): 3e9=effective",
    )
    add("--rows", type=int, default=20, metavar="N", help="steps in the table")
    add("--picture", metavar="FILE.png", help="write a picture")


def with_batches(arguments: argparse.Namespace) -> dict[str, Any]:
    """The JSON object with the batch sizes of the command line.

    Raises:
        ConfigError: if it says others.
    """
    content = read_json(arguments.json)
    for key, value in (
        ("train_batch_size", arguments.global_batch_size),
        ("train_micro_batch_size_per_gpu", arguments.micro_batch_size),
    ):
        if value is not None and content.get(key, "auto") not in ("auto", value):
            raise ConfigError(
                f"{key} is {content[key]!r} in the JSON file but {value!r} by the flag"
            )
        if value is not None:
            content[key] = value
    return content


def with_indexes(content: Any, pairs: Sequence[str]) -> Config:
    """The configuration with the indexes of the command line.

    Raises:
        ValueError: for a metric that does not select samples.
    """
    config = load_config(content)
    section = config.data_efficiency
    selections = {selection.name: selection for selection in section.selections}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if name not in selections or not folder:
            raise ValueError(
                f"--index is {pair!r}: must be METRIC=FOLDER with one of the metrics that select "
                f"samples: {', '.join(selections) or '(there are none)'}"
            )
        selections[name] = dataclasses.replace(
            selections[name], index_path=folder, trust_order=False, shuffle_index=None
        )
    section = dataclasses.replace(section, selections=tuple(selections.values()))
    return dataclasses.replace(config, data_efficiency=section)


def read_decay_end(text: str | None) -> DecayEnd | None:
    """Where the learning rate is at its minimum, of text like "3e9=effective"."""
    if text is None:
        return None
    amount, _, unit = text.partition("=")
    if unit in ("steps", "samples", "corpus", "loss", "effective"):
        return DecayEnd(amount=float(amount), unit=unit)
    raise ValueError(
        f"--lr-decay is {text!r}: must be AMOUNT=UNIT with a unit steps, samples, corpus, loss or "
        "effective"
    )


def _refuse_picture_over(arguments: argparse.Namespace, source: str) -> None:
    """Raise ValueError where the picture would be written over what is read."""
    if arguments.picture is not None:
        files.refuse_writing_over([arguments.picture], [source])


def plan_of_json(words: Sequence[str]) -> None:
    """Show the plan of a JSON file and flags."""
    arguments = parse_arguments(words)
    _refuse_picture_over(arguments, arguments.json)
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    model_flags = {name: value for name, value in vars(arguments).items() if name in names}
    plan = plan_run(
        with_indexes(with_batches(arguments), arguments.index),
        model=model_shape(ModelConfig(**model_flags)),
        sequence_length=arguments.seq_length,
        num_steps=arguments.train_steps,
        num_samples=arguments.num_samples,
        data_parallel_size=arguments.data_parallel_size,
    )
    show(plan, arguments)


def plan_of_run(name: str, words: Sequence[str]) -> None:
    """Show the plan of a run file: the same walk, and so the same totals, as `tools/study.py plan`."""
    architecture: Any = read_run_file(SHIPPED, name).architecture or "gpt"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_plan_flags(parser)
    arguments, of_run = parser.parse_known_args(words)
    _refuse_picture_over(arguments, name)
    # Of pretraining, a plan alone does not need to know where the data lie.
    more = {} if "data_path" not in RUN_KINDS[architecture].table_of else {"data_path": ("data",)}
    if not more and arguments.num_samples is not None:
        of_run += ["--num-samples", str(arguments.num_samples)]
    config = parse_run_config(
        __doc__ or "", ["--config", name, *of_run], architecture=architecture, **more
    )
    if isinstance(config, GlueRunConfig):
        raise ValueError("the rows of a task are as long as its texts: nothing can be planned")
    if not isinstance(config, RunConfig):
        print(format_finetuning_plan(config))
        return
    total = planned_cost(config, arguments.data_parallel_size)
    plan = plan_run(
        with_indexes(engine_json(config), arguments.index),
        model=counted_shape(config),
        sequence_length=config.data.seq_length,
        num_steps=total.steps,
        num_samples=arguments.num_samples,
        data_parallel_size=arguments.data_parallel_size,
    )
    show(plan, arguments)
    print(
        f"\nwhole run: {total.steps:,} steps, {format_count(total.corpus_tokens)} corpus tokens, "
        f"{format_count(total.layer_tokens)} layer tokens, {format_count(total.flops)} FLOPs"
    )


def show(plan: RunPlan, arguments: argparse.Namespace) -> None:
    """Print the plan and its warnings, and draw it."""
    decay_end = read_decay_end(arguments.lr_decay)
    print(format_plan(plan, arguments.rows))
    for sentence in plan_warnings(plan, decay_end):
        print(f"\nwarning: {sentence}")
    if arguments.picture is not None:
        plot_plan(plan, arguments.picture)


def carry_out(words: Sequence[str]) -> None:
    """Plan what the command line names: a run file or a JSON file."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    found, rest = first.parse_known_args(words)
    if found.config is None:
        plan_of_json(rest)
    else:
        plan_of_run(found.config, rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, also where there are warnings; 1 after an error."""
    return run_command(carry_out, argv)


if __name__ == "__main__":
    raise SystemExit(main())
