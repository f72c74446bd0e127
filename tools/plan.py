r"""Shows what a configuration will do before a single step is run: a table, the saving, warnings.

python tools/plan.py ds_config.json --train-steps 20000 --num-samples 1000000 --seq-length 1024 \
    --num-layers 12 --hidden-size 768 --picture plan.png

The baseline is as many steps on whole samples with nothing dropped; in the picture it is dotted.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from megatron.command import run_command

from data_efficiency import (
    DecayEnd,
    files,
    fill_from_flags,
    load_config,
    plan_run,
    plan_warnings,
    read_json,
)
from data_efficiency.config import Config
from megatron.arguments import make_parser
from megatron.config import ModelConfig
from megatron.reporting import format_plan, plot_plan
from megatron.run_state import model_shape


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the model's flags are those of pretrain_gpt.py and pretrain_bert.py."""
    parser = make_parser((__doc__ or "").split("\n")[0], groups={"model": ModelConfig})
    add = parser.add_argument
    add("config", metavar="CONFIG", help="JSON file in DeepSpeed's form")
    add("--train-steps", type=int, required=True, metavar="N", help="optimizer steps")
    add("--seq-length", type=int, required=True, metavar="N", help="of a sample")
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
        help="a metric's difficulty index; without this and --num-samples the JSON file's are read",
    )
    add("--global-batch-size", type=int, metavar="N", help="if not in the file")
    add("--micro-batch-size", type=int, metavar="N", help="if not in the file")
    add("--data-parallel-size", type=int, default=1, metavar="N", help="processes")
    add(
        "--lr-decay",
        metavar="AMOUNT=UNIT",
        help="where the learning rate is at its minimum; units are steps, samples, corpus, loss and "
        "effective (tokens): 3e9=effective",
    )
    add("--rows", type=int, default=20, metavar="N", help="steps in the table")
    add("--picture", metavar="FILE.png", help="write a picture")
    return parser.parse_args(argv)


def config_with_flags(arguments: argparse.Namespace) -> Config:
    """The configuration with the batch sizes and indexes of the command line."""
    flags = {
        "train_batch_size": arguments.global_batch_size,
        "train_micro_batch_size_per_gpu": arguments.micro_batch_size,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    config = load_config(fill_from_flags(read_json(arguments.config), given))
    section = config.data_efficiency
    selections = {selection.name: selection for selection in section.selections}
    for pair in arguments.index:
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


def show_plan(arguments: argparse.Namespace) -> None:
    """Print the plan and its warnings, and draw it."""
    if arguments.picture is not None:
        files.refuse_writing_over([arguments.picture], [arguments.config])
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    model_flags = {name: value for name, value in vars(arguments).items() if name in names}
    decay_end = read_decay_end(arguments.lr_decay)
    plan = plan_run(
        config_with_flags(arguments),
        model=model_shape(ModelConfig(**model_flags)),
        sequence_length=arguments.seq_length,
        num_steps=arguments.train_steps,
        num_samples=arguments.num_samples,
        data_parallel_size=arguments.data_parallel_size,
    )
    print(format_plan(plan, arguments.rows))
    for sentence in plan_warnings(plan, decay_end):
        print(f"\nwarning: {sentence}")
    if arguments.picture is not None:
        plot_plan(plan, arguments.picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, also where there are warnings; 1 after an error."""
    return run_command(lambda words: show_plan(parse_arguments(words)), argv)


if __name__ == "__main__":
    raise SystemExit(main())
