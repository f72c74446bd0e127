"""The command `plan`: what a configuration will do before a single step is run."""

import dataclasses
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from data_efficiency.accounting import ModelShape
from data_efficiency.config import Config, load_config, read_json
from data_efficiency.files import refuse_writing_over
from data_efficiency.json_section import ConfigError
from data_efficiency.plan import RunPlan, plan_run
from data_efficiency.plan_memory import format_memory, precision_of
from data_efficiency.plan_report import format_plan, plot_plan
from data_efficiency.plan_warnings import DecayEnd, plan_warnings

UNITS: tuple[Literal["steps", "samples", "corpus", "loss", "effective"], ...]
UNITS = ("steps", "samples", "corpus", "loss", "effective")
TEXT = "show what a configuration will do: a table, the saving, warnings"


def add_to(commands: Any) -> None:
    """Add the command to the subparsers of a parser; it leaves what it does as `action`."""
    parser: ArgumentParser = commands.add_parser("plan", help=TEXT, description=TEXT)
    add_json_flags(parser)
    add_model_flags(parser)
    add_plan_flags(parser)
    parser.set_defaults(action=lambda arguments: plan_of_json(arguments, model_shape(arguments)))


def add_json_flags(parser: ArgumentParser) -> None:
    """Add what a plan needs beside the JSON file."""
    add = parser.add_argument
    add("json", metavar="CONFIG.json", help="JSON file in DeepSpeed's form")
    add("--train-steps", type=int, required=True, metavar="N", help="optimizer steps")
    add("--seq-length", type=int, required=True, metavar="N", help="of a sample")
    add("--global-batch-size", type=int, metavar="N", help="if not in the file")
    add("--micro-batch-size", type=int, metavar="N", help="if not in the file")


def add_model_flags(parser: ArgumentParser) -> None:
    """Add the sizes of a transformer, which its operations follow from."""
    add = parser.add_argument_group("model").add_argument
    add("--num-layers", type=int, required=True, metavar="N", help="of the transformer")
    add("--hidden-size", type=int, required=True, metavar="N", help="width of the residual stream")
    add("--query-size", type=int, metavar="N", help="all query heads together (hidden size)")
    add("--key-value-size", type=int, metavar="N", help="all key heads together (query size)")
    add("--ffn-hidden-size", type=int, metavar="N", help="of the feed-forward part (4 x hidden)")
    add("--swiglu", action="store_true", help="the feed-forward part has three matrices")
    add("--vocab-size", type=int, default=50304, metavar="N", help="rows of the output (50304)")


def model_shape(arguments: Namespace) -> ModelShape:
    """The model that the flags describe."""
    query = arguments.query_size or arguments.hidden_size
    return ModelShape(
        num_layers=arguments.num_layers,
        hidden_size=arguments.hidden_size,
        query_size=query,
        key_value_size=arguments.key_value_size or query,
        ffn_size=arguments.ffn_hidden_size or 4 * arguments.hidden_size,
        num_ffn_matrices=3 if arguments.swiglu else 2,
        vocab_size=arguments.vocab_size,
    )


def add_plan_flags(parser: ArgumentParser) -> None:
    """Add what is asked of a plan, whatever it is read from."""
    add = parser.add_argument
    either = parser.add_mutually_exclusive_group().add_argument
    either(
        "--num-samples",
        type=int,
        nargs="+",
        metavar="N",
        help="samples of the dataset, if no index is at hand; of length buckets one number for each",
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
    add(
        "--device-memory",
        type=float,
        metavar="BYTES",
        help="of one device, as 80e9: show what each way to hold the weights takes of it, and the first that fits",
    )
    add("--rows", type=int, default=20, metavar="N", help="steps in the table")
    add("--picture", metavar="FILE.png", help="write a picture")


def plan_of_json(arguments: Namespace, model: ModelShape) -> None:
    """Show the plan of a JSON file and flags."""
    refuse_picture_over(arguments, arguments.json)
    plan = plan_run(
        with_indexes(with_batches(arguments), arguments.index),
        model=model,
        sequence_length=arguments.seq_length,
        num_steps=arguments.train_steps,
        num_samples=arguments.num_samples,
        data_parallel_size=arguments.data_parallel_size,
    )
    show(plan, arguments)


def with_batches(arguments: Namespace) -> dict[str, Any]:
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
    number, _, unit = text.partition("=")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    for known in UNITS:
        if unit == known and 0 < amount < math.inf:
            return DecayEnd(amount=amount, unit=known)
    raise ValueError(
        f"--lr-decay is {text!r}: must be AMOUNT=UNIT with an amount above 0 and a unit steps, samples, "
        "corpus, loss or effective"
    )


def refuse_picture_over(arguments: Namespace, source: str) -> None:
    """Raise ValueError where the picture would be written over what is read."""
    if arguments.picture is not None:
        refuse_writing_over([arguments.picture], [source])


def show(
    plan: RunPlan,
    arguments: Namespace,
    *,
    bf16_weights: bool = False,
    outside: int | None = None,
    tensor_sizes: Iterable[int] = (),
    stage_starts: Sequence[int] = (),
) -> None:
    """Print the plan, its memory and its warnings, and draw it.

    Args:
        bf16_weights: as in `initialize`.
        outside: numbers of weights outside the layers; None: one matrix of the vocabulary.
        tensor_sizes: numbers of processes that can share the model's layers, beside that of the plan.
        stage_starts: first step of each stage of the run; empty where it has none.
    """
    decay_end, device = read_decay_end(arguments.lr_decay), arguments.device_memory
    if device is not None and not 0 < device < math.inf:
        raise ValueError(f"--device-memory is {device:g}: must be a number of bytes above 0")
    print(format_plan(plan, arguments.rows, stage_starts))
    if device is not None:
        table = format_memory(
            plan,
            num_processes=arguments.data_parallel_size,
            device_bytes=device,
            precision=precision_of(plan.config, bf16_weights=bf16_weights),
            outside=outside,
            tensor_sizes=tensor_sizes,
        )
        print(f"\n{table}")
    for sentence in plan_warnings(plan, decay_end):
        print(f"\nwarning: {sentence}")
    if arguments.picture is not None:
        plot_plan(plan, arguments.picture, stage_starts)
