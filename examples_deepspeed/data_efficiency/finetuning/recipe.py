"""A recipe of the finetuning examples: flags, and the JSON object in DeepSpeed's form, made whole by them.

A recipe is TOML: `[flags]` has the flags of the program, the rest is the object, where "auto" stands for what
follows from the run. Of several, what comes later counts; a JSON file of DeepSpeed's is one without flags. One
recipe holds both techniques, so that the four runs of a comparison differ in nothing else.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_efficiency import fill_from_flags, load_config, read_json
from megatron.engine_json import merged, value_at
from megatron.recipes import read_toml

VARIANTS = ("baseline", "random_ltd", "curriculum", "both")
_ROUTING = "data_efficiency.data_routing.random_ltd"
_METRICS = "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics"


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds recipe, variant, engine, seeds, folders, and the size and rates of a run."""
    add = parser.add_argument
    add("--recipe", nargs="+", required=True, metavar="FILE", help="recipes/NAME.toml, or JSON")
    add("--variant", nargs="+", choices=VARIANTS, default=["both"], help="which techniques stay")
    add("--engine", choices=("torch", "deepspeed"), default="torch")
    add("--seeds", type=int, nargs="+", default=[1234], help="one run each")
    add("--save", default="runs/finetuning", help="folder of runs and results")
    add("--export", action="store_true", help="write the finetuned model")
    add("--plan", action="store_true", help="print the accounting; train nothing")
    add("--bf16", action="store_true", help="compute in bfloat16")
    add("--start-length", type=int, help='"auto" positions kept at first; else an eighth')
    add("--curriculum-start", type=int, help='"auto" length of the first rows; else a 32nd')
    add("--random-ltd-share", type=float, default=0.3, help='"auto" part of the baseline\'s steps')
    add("--curriculum-share", type=float, default=0.7, help="likewise")
    add("--composed-curriculum-share", type=float, help="the same for both techniques together")
    add("--index", help='"auto" difficulty index of metrics that select samples')
    add("--eval-batch-size", type=int, default=4)
    add("--eval-interval", type=int, default=50, help="optimizer steps")
    add("--save-interval", type=int, default=50, help="optimizer steps")
    add("--epochs", type=float, default=2.0, help="of the baseline: the budget")
    add("--batch-size", type=int, help='"auto" global batch')
    add("--micro-batch-size", type=int, help='"auto" forward pass of a process')
    add("--learning-rate", type=float, default=5e-5, help="its peak")
    add("--lr-decay", choices=("constant", "linear", "thirds"), default="constant")
    add("--warmup-steps", type=int, default=0, help="optimizer steps of whole rows")
    add("--weight-decay", type=float, default=0.0)
    add("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(always_keep=None)


def parse_with_recipe(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """The command line, with the flags of the recipes that it names before its own."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", nargs="+", default=[])
    words = list(sys.argv[1:] if argv is None else argv)
    flags, _ = read_recipe(first.parse_known_args(words)[0].recipe)
    written = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        if value is not False:
            written += [f"--{name.replace('_', '-')}", *map(str, values)]
    return parser.parse_args([*written, *words])


def read_recipe(paths: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flags, and the JSON object, of recipes laid over each other.

    Raises:
        ConfigError: for a file that is not understood.
        FileNotFoundError: if there is none.
    """
    content: dict[str, Any] = {}
    for path in paths:
        toml = path.endswith(".toml")
        content = merged(content, read_toml(Path(path)) if toml else read_json(path))
    return content.pop("flags", {}), content


def each_variant(arguments: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The same for each variant alone."""
    for variant in arguments.variant:
        yield argparse.Namespace(**{**vars(arguments), "variant": variant})


def fill_recipe(
    arguments: argparse.Namespace, *, num_layers: int, length: int, num_samples: int, seed: int
) -> Any:
    """The parsed configuration of the chosen variant, its schedules scaled to the run.

    Args:
        arguments: with the flags of `add_run_flags`; `always_keep` names positions that no layer drops.
        num_layers: of the model; all but the first and the last drop tokens.
        length: positions of a row, where every schedule of lengths ends.
        num_samples: of the training data.
        seed: of sampling and token dropping.

    Raises:
        ConfigError: for a file that is not understood or contradicts what is filled in.
        ValueError: if the variant needs a technique that the file does not have.
    """
    path = " ".join(arguments.recipe)
    raw = _only(arguments.variant, read_recipe(arguments.recipe)[1], path)
    flags = {
        "train_batch_size": arguments.batch_size,
        "train_micro_batch_size_per_gpu": arguments.micro_batch_size,
        "bf16.enabled": arguments.bf16 or None,
    }
    if arguments.variant in ("random_ltd", "both"):
        flags[f"{_ROUTING}.always_keep"] = arguments.always_keep
    raw = fill_from_flags(raw, {key: value for key, value in flags.items() if value is not None})
    size = raw.get("train_batch_size")
    if type(size) is not int or size < 1:
        raise ValueError(
            f"train_batch_size is {size!r} in {path}: must be a number from 1, there or as --batch-size"
        )
    values = _auto_values(raw, arguments, num_layers, length, num_samples)
    values["data_efficiency.seed"] = seed
    wanted = {key: value for key, value in values.items() if value_at(raw, key) == "auto"}
    missing = [key for key, value in wanted.items() if value is None]
    if missing:
        raise ValueError(
            f"{missing[0]} is auto in {path}: give it on the command line (--index, "
            "--micro-batch-size)"
        )
    return load_config(fill_from_flags(raw, wanted))


def _only(variant: str, raw: dict[str, Any], path: str) -> dict[str, Any]:
    """The JSON object with the techniques of a variant."""
    section = raw.setdefault("data_efficiency", {})
    if not isinstance(section, dict):
        raise ValueError(f"data_efficiency is {section!r} in {path}: must be a JSON object")
    section.setdefault("seed", "auto")
    for name, technique in (("data_sampling", "curriculum"), ("data_routing", "random_ltd")):
        if variant not in (technique, "both"):
            section.pop(name, None)
        elif name not in section:
            raise ValueError(f"--variant is {variant}, but {path} has no {name} section")
    if variant == "baseline":
        section.pop("enabled", None)
    return raw


def _auto_values(
    raw: dict[str, Any],
    arguments: argparse.Namespace,
    num_layers: int,
    length: int,
    num_samples: int,
) -> dict[str, Any]:
    """Dotted key -> value, for every key that may be "auto"; shares are of the baseline's steps."""
    steps = math.ceil(arguments.epochs * math.ceil(num_samples / raw["train_batch_size"]))
    dropping = list(range(1, num_layers - 1))
    schedule = f"{_ROUTING}.random_ltd_schedule"
    values: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": None,
        f"{_ROUTING}.total_layer_num": num_layers,
        f"{_ROUTING}.random_ltd_layer_num": len(dropping),
        f"{_ROUTING}.random_ltd_layer_id": dropping,
        f"{schedule}.min_value": arguments.start_length or max(1, length // 8),
        f"{schedule}.max_value": length,
        f"{schedule}.schedule_config.require_steps": max(
            1, round(arguments.random_ltd_share * steps)
        ),
    }
    share = arguments.curriculum_share
    if arguments.variant == "both" and arguments.composed_curriculum_share is not None:
        share = arguments.composed_curriculum_share
    for name in value_at(raw, _METRICS) or {}:
        metric = f"{_METRICS}.{name}"
        total = max(1, round(share * steps))
        values[f"{metric}.schedule_config.total_curriculum_step"] = total
        values[f"{metric}.min_difficulty"] = arguments.curriculum_start or max(1, length // 32)
        values[f"{metric}.max_difficulty"] = length
        values[f"{metric}.index_path"] = arguments.index
    return values
