"""A recipe's JSON file made whole: one technique or both, and what it leaves "auto" filled in.

One file holds both techniques, so that the four runs of a comparison differ in nothing else.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_efficiency import fill_from_flags, load_config, read_json

VARIANTS = ("baseline", "random_ltd", "curriculum", "both")
_ROUTING = "data_efficiency.data_routing.random_ltd"
_METRICS = "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a run: what "auto" values are computed from."""

    num_layers: int
    """Of the model; all but the first and the last drop tokens."""
    length: int
    """Positions of a row, where every schedule of lengths ends."""
    num_samples: int
    """Of the training data."""
    epochs: float
    """Of the baseline; the shares below are of its steps."""
    seed: int
    """Of sampling and token dropping."""
    batch_size: int | None = None
    """Global batch of a file that says "auto"; None: what the file says. The next likewise."""
    micro_batch_size: int | None = None
    bf16: bool = False
    start_length: int | None = None
    """Positions that are kept at first; None: an eighth of the length."""
    curriculum_start: int | None = None
    """Length of the first rows; None: a 32nd of the length."""
    random_ltd_share: float = 0.3
    """Part of the baseline's steps until every token is kept."""
    curriculum_share: float = 0.7
    """Part of the baseline's steps until the curriculum is over."""
    index_path: str | None = None
    """Difficulty index of metrics that select samples."""
    always_keep: tuple[int, ...] | None = None
    """Positions that no layer drops; None: what the file says."""


def read_recipe(path: str | Path, variant: str, scale: Scale) -> Any:
    """The parsed configuration of a run, as `load_config` gives it.

    Args:
        path: of the JSON file.
        variant: which of its two techniques stay.
        scale: what its "auto" values are made of; others stay as they are.

    Raises:
        ConfigError: for a file that is not understood or contradicts what is filled in.
        ValueError: if the variant needs a technique that the file does not have.
    """
    raw = _only(variant, read_json(path), path)
    sizes = {
        "train_batch_size": scale.batch_size,
        "train_micro_batch_size_per_gpu": scale.micro_batch_size,
    }
    raw = fill_from_flags(raw, {key: size for key, size in sizes.items() if size is not None})
    if not isinstance(raw.get("train_batch_size"), int):
        raise ValueError(
            f"train_batch_size is {raw.get('train_batch_size')!r} in {path}: must be a number, there or "
            "as --batch-size"
        )
    if scale.bf16:
        raw = fill_from_flags(raw, {"bf16.enabled": True})
    if scale.always_keep is not None and variant in ("random_ltd", "both"):
        raw = fill_from_flags(raw, {f"{_ROUTING}.always_keep": list(scale.always_keep)})
    values = _auto_values(raw, scale)
    wanted = {key: value for key, value in values.items() if _found(raw, key) == "auto"}
    missing = [key for key, value in wanted.items() if value is None]
    if missing:
        raise ValueError(
            f"{missing[0]} is auto in {path}: give it on the command line (--index, "
            "--micro-batch-size)"
        )
    return load_config(fill_from_flags(raw, wanted))


def _only(variant: str, raw: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The JSON object with the techniques of a variant."""
    section = raw["data_efficiency"] = dict(raw.get("data_efficiency", {}))
    section.setdefault("seed", "auto")
    for name, technique in (("data_sampling", "curriculum"), ("data_routing", "random_ltd")):
        if variant not in (technique, "both"):
            section.pop(name, None)
        elif name not in section:
            raise ValueError(f"--variant is {variant}, but {path} has no {name} section")
    if variant == "baseline":
        section.pop("enabled", None)
    return raw


def _auto_values(raw: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """Dotted key -> value, for every key that may be "auto"."""
    steps = math.ceil(scale.epochs * math.ceil(scale.num_samples / raw["train_batch_size"]))
    dropping = list(range(1, scale.num_layers - 1))
    schedule = f"{_ROUTING}.random_ltd_schedule"
    values: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": None,
        "data_efficiency.seed": scale.seed,
        f"{_ROUTING}.total_layer_num": scale.num_layers,
        f"{_ROUTING}.random_ltd_layer_num": len(dropping),
        f"{_ROUTING}.random_ltd_layer_id": dropping,
        f"{schedule}.min_value": scale.start_length or max(1, scale.length // 8),
        f"{schedule}.max_value": scale.length,
        f"{schedule}.schedule_config.require_steps": max(1, round(scale.random_ltd_share * steps)),
    }
    for name in _found(raw, _METRICS) or {}:
        metric = f"{_METRICS}.{name}"
        total = max(1, round(scale.curriculum_share * steps))
        values[f"{metric}.schedule_config.total_curriculum_step"] = total
        values[f"{metric}.min_difficulty"] = scale.curriculum_start or max(1, scale.length // 32)
        values[f"{metric}.max_difficulty"] = scale.length
        values[f"{metric}.index_path"] = scale.index_path
    return values


def _found(raw: Any, dotted: str) -> Any:
    """What stands at a dotted key; None where nothing does."""
    for key in dotted.split("."):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw
