"""A recipe's JSON file made whole: one technique or both, and what it leaves "auto" filled in.

One file holds both techniques, so that the four runs of a comparison differ in nothing else.
"""

import math
from pathlib import Path
from typing import Any

from data_efficiency import fill_from_flags, load_config, read_json

VARIANTS = ("baseline", "random_ltd", "curriculum", "both")
_ROUTING = "data_efficiency.data_routing.random_ltd"
_METRICS = "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics"


def read_recipe(
    path: str | Path,
    variant: str,
    *,
    num_layers: int,
    length: int,
    num_samples: int,
    epochs: float,
    seed: int,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    bf16: bool = False,
    start_length: int | None = None,
    curriculum_start: int | None = None,
    random_ltd_share: float = 0.3,
    curriculum_share: float = 0.7,
    index_path: str | None = None,
    always_keep: list[int] | None = None,
) -> Any:
    """The parsed configuration of a run, as `load_config` gives it.

    Args:
        path: of the JSON file.
        variant: which of its two techniques stay.
        num_layers: of the model; "auto" lets all but the first and the last drop tokens.
        length: positions of a row, "auto" end of every schedule of lengths.
        num_samples: of the training data.
        epochs: of the baseline; the shares are of its steps.
        seed: of sampling and token dropping.
        batch_size: "auto" samples of a global batch.
        micro_batch_size: "auto" samples of one forward pass.
        bf16: whether to compute in bfloat16.
        start_length: "auto" positions that are kept at first; None: an eighth of `length`.
        curriculum_start: "auto" length of the first rows; None: a 32nd of `length`.
        random_ltd_share: part of the baseline's steps until every token is kept.
        curriculum_share: part of the baseline's steps until the curriculum is over.
        index_path: "auto" difficulty index of metrics that select samples.
        always_keep: positions that no layer drops; None: what the file says.

    Raises:
        ConfigError: for a file that is not understood or contradicts what is filled in.
        ValueError: if the variant needs a technique that the file does not have.
    """
    raw = read_json(path)
    section = raw.setdefault("data_efficiency", {})
    section.setdefault("seed", "auto")
    for name, technique in (("data_sampling", "curriculum"), ("data_routing", "random_ltd")):
        if variant not in (technique, "both"):
            section.pop(name, None)
        elif name not in section:
            raise ValueError(f"--variant is {variant}, but {path} has no {name} section")
    if variant == "baseline":
        section.pop("enabled", None)
    if raw.get("train_batch_size") == "auto":
        raw["train_batch_size"] = batch_size
    global_batch = raw.get("train_batch_size")
    if not isinstance(global_batch, int):
        raise ValueError(f"train_batch_size is {global_batch!r} in {path}: must be a number")
    if bf16:
        raw = fill_from_flags(raw, {"bf16.enabled": True})
    baseline_steps = math.ceil(epochs * math.ceil(num_samples / global_batch))
    if always_keep is not None and variant in ("random_ltd", "both"):
        raw = fill_from_flags(raw, {f"{_ROUTING}.always_keep": always_keep})
    dropping = list(range(1, num_layers - 1))
    values: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "data_efficiency.seed": seed,
        f"{_ROUTING}.total_layer_num": num_layers,
        f"{_ROUTING}.random_ltd_layer_num": len(dropping),
        f"{_ROUTING}.random_ltd_layer_id": dropping,
        f"{_ROUTING}.random_ltd_schedule.min_value": start_length or max(1, length // 8),
        f"{_ROUTING}.random_ltd_schedule.max_value": length,
        f"{_ROUTING}.random_ltd_schedule.schedule_config.require_steps": max(
            1, round(random_ltd_share * baseline_steps)
        ),
    }
    for name in _found(raw, _METRICS) or {}:
        metric = f"{_METRICS}.{name}"
        steps = max(1, round(curriculum_share * baseline_steps))
        values[f"{metric}.schedule_config.total_curriculum_step"] = steps
        values[f"{metric}.min_difficulty"] = curriculum_start or max(1, length // 32)
        values[f"{metric}.max_difficulty"] = length
        values[f"{metric}.index_path"] = index_path
    wanted = {key: value for key, value in values.items() if _found(raw, key) == "auto"}
    missing = [key for key, value in wanted.items() if value is None]
    if missing:
        raise ValueError(
            f"{missing[0]} is auto in {path}: give it on the command line (--index, "
            "--micro-batch-size)"
        )
    return load_config(fill_from_flags(raw, wanted))


def _found(raw: Any, dotted: str) -> Any:
    """What stands at a dotted key; None where nothing does."""
    for key in dotted.split("."):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw
