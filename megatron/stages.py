"""The stages of a run written as schedules, which there are for everything that a stage can say.

A stage is no mode of the training loop: it is a stretch of the schedules of lengths, windows, routes, pools, order, mix and rate,
all of which change at its first step. So plan, log, counters and resume know nothing of stages.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from data_efficiency import ConfigError, Counters, ModelShape, load_config
from data_efficiency.plan import planned_totals
from megatron.config import RunConfig, Stage, shares_of
from megatron.nested_keys import merged, value_at

JsonOf = Callable[[RunConfig], dict[str, Any]]
_CURRICULUM = "data_sampling.curriculum_learning"
_METRICS = f"{_CURRICULUM}.curriculum_metrics"
_LENGTHS: Mapping[str, str] = {
    "seq_length": "seqlen_truncate",
    "attention_window": "attention_window",
    "sliding_window": "sliding_window",
}
"""Key of a stage -> the metric whose difficulty it is."""
_PACING = ("min_difficulty", "max_difficulty", "schedule_type", "schedule_config")
_NEVER = 2**62
ORDER_PARTS = 1000
"""An order changes at this part of a run's samples next to a stage's end."""


def without_stages(config: RunConfig, json_of: JsonOf) -> RunConfig:
    """The same run without stages, its schedules those that they stand for.

    Args:
        json_of: what the engine gets of a run.

    Raises:
        ConfigError: for what a stage and another table both say, or a stage without a step.
    """
    if not config.stages:
        return config
    ends = stage_ends(config, json_of)
    return _written(config, [end.steps for end in ends[:-1]], ends)


def stage_ends(config: RunConfig, json_of: JsonOf) -> tuple[Counters, ...]:
    """Planned totals of the run at the end of each of its stages; nothing where it has none."""
    if not config.stages:
        return ()
    budget, whole = _budget(config)
    ends: list[Counters] = []
    for share in accumulate(shares_of(config.stages)):
        content = load_config(json_of(_written(config, [end.steps for end in ends])))
        ends.append(
            planned_totals(
                content,
                model=_counting_shape(config),
                sequence_length=config.data.seq_length,
                **{budget: math.ceil(share * whole)},
            )
        )
        number = len(ends)
        if number > 1 and ends[-1].steps == ends[-2].steps:
            stage = config.stages[number - 1]
            raise ConfigError(
                f"stages[{number - 1}].share is {stage.share}: the stage before fills it with its last step, so that it would have no "
                "step; give it more, or leave it out"
            )
    return tuple(ends)


def stage_starts(config: RunConfig, json_of: JsonOf) -> tuple[int, ...]:
    """The first step, from 1 on, of each stage; nothing where the run has none."""
    ends = stage_ends(config, json_of)
    return (1, *(end.steps + 1 for end in ends[:-1])) if ends else ()


def _budget(config: RunConfig) -> tuple[str, int]:
    """What the shares are of: an argument of `planned_totals`, and its value for the whole run."""
    training = config.training
    by_tokens = training.train_tokens is not None
    if training.token_counter == "loss" and (by_tokens or training.lr_decay_tokens is not None):
        raise ConfigError(
            "--token-counter is 'loss', and the run has stages: which step fills a stage's share is planned, but how many tokens "
            "are in the loss is not known before; take effective or corpus"
        )
    if training.train_tokens is not None:
        return f"{training.token_counter}_tokens", training.train_tokens
    if training.train_samples is not None:
        return "samples", training.train_samples
    return "num_steps", config.num_whole_steps


def _counting_shape(config: RunConfig) -> ModelShape:
    """A model of as many layers; no counter but that of operations depends on more."""
    sizes = (
        "hidden_size",
        "query_size",
        "key_value_size",
        "ffn_size",
        "num_ffn_matrices",
        "vocab_size",
    )
    one: dict[str, Any] = dict.fromkeys(sizes, 1)
    return ModelShape(num_layers=config.model.num_layers, **one)


def _written(
    config: RunConfig, last_steps: Sequence[int], ends: Sequence[Counters] | None = None
) -> RunConfig:
    """The run with its stages as schedules.

    Args:
        last_steps: of the first stages; the one behind them never ends.
        ends: of all stages; None: an order and a mix, on which no length depends, are left out.
    """
    stages, training = config.stages, config.training
    open_ends = [_NEVER + number for number in range(len(stages) - 1 - len(last_steps))]
    last_steps = [*last_steps, *open_ends]
    parts = [
        *_pool(config, last_steps),
        *_lengths(config, last_steps),
        *_routes(config, last_steps),
        *_order(config, ends),
        *_mix(config, ends),
    ]
    section: Mapping[str, Any] = config.data_efficiency
    for part in parts:
        section = merged(section, part)
    of_curriculum = any(_has(stages, key) for key in (*_LENGTHS, "pool", "order"))
    if of_curriculum and training.data_efficiency_curriculum_learning is None:
        training = replace(training, data_efficiency_curriculum_learning=True)
    if _has(stages, "kept_length") and training.random_ltd is None:
        training = replace(training, random_ltd=True)
    return replace(config, stages=(), training=training, data_efficiency=section)


def _has(stages: Sequence[Stage], key: str) -> bool:
    return any(getattr(stage, key) is not None for stage in stages)


def _values(config: RunConfig, key: str, whole: int) -> list[int]:
    return [whole if (value := getattr(stage, key)) is None else value for stage in config.stages]


def _lengths(config: RunConfig, last_steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The metrics of lengths and windows."""
    for key, name in _LENGTHS.items():
        if not _has(config.stages, key):
            continue
        _refuse_both(config, key, f"{_METRICS}.{name}", _PACING)
        values = _values(config, key, config.data.seq_length)
        for number, value in enumerate(values):
            if value > config.data.seq_length:
                raise ConfigError(
                    f"stages[{number}].{key} is {value}: must be at most --seq-length ({config.data.seq_length}), which rows have"
                )
        kind = {"difficulty_type": "value", "clustering_type": "single_cluster"}
        yield _at(f"{_METRICS}.{name}", {**kind, **_paced(values, max(values), last_steps)})


def _paced(values: Sequence[int], highest: int, last_steps: Sequence[int]) -> dict[str, Any]:
    return {
        "min_difficulty": values[0],
        "max_difficulty": highest,
        **_discrete(values, last_steps),
    }


def _discrete(values: Sequence[int], last_steps: Sequence[int]) -> dict[str, Any]:
    config = {"difficulty": list(values), "max_step": list(last_steps)}
    return {"schedule_type": "fixed_discrete", "schedule_config": config}


def _routes(config: RunConfig, last_steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The schedules of token dropping and layer dropout, which count finished steps."""
    finished = [step - 1 for step in last_steps]
    for key, whole, place in (
        ("kept_length", config.data.seq_length, "data_routing.random_ltd.random_ltd_schedule"),
        ("kept_rows", 100, "data_routing.layer_dropout.keep_schedule"),
    ):
        if not _has(config.stages, key):
            continue
        route = place.rpartition(".")[0]
        _refuse_both(config, key, route, (place.rpartition(".")[2],))
        values = _values(config, key, whole)
        schedule = {"min_value": values[0], "max_value": max(values)}
        yield _at(place, schedule | _discrete(values, finished))
        if key == "kept_rows" and value_at(config.data_efficiency, f"{route}.enabled") is None:
            yield _at(f"{route}.enabled", True)


def _pool(config: RunConfig, last_steps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The schedule of the metric that admits samples."""
    if not _has(config.stages, "pool"):
        return
    [name] = _metrics_of(config, "pool", "schedule_based", most=1)
    _refuse_both(config, "pool", f"{_METRICS}.{name}", ("difficulty_type", *_PACING))
    values = _values(config, "pool", 100)
    paced = _paced(values, 100, last_steps)
    yield _at(f"{_METRICS}.{name}", {"difficulty_type": "percentile", **paced})


def _order(config: RunConfig, ends: Sequence[Counters] | None) -> Iterator[dict[str, Any]]:
    """The order of the samples that are sorted."""
    if not _has(config.stages, "order"):
        return
    _metrics_of(config, "order", "sorted")
    _refuse_both(config, "order", f"{_CURRICULUM}.order", ("kind", "stages", "pass_samples"))
    if ends is None:
        return
    drawn = ends[-1].consumed_samples
    parts = [round(ORDER_PARTS * end.consumed_samples / drawn) for end in ends]
    shares = [end - begin for begin, end in zip([0, *parts[:-1]], parts, strict=True)]
    if not all(shares):
        raise ConfigError(
            f"stages[{shares.index(0)}].share is {config.stages[shares.index(0)].share}: an order's stages are whole "
            f"parts of {ORDER_PARTS}; give it more"
        )
    common = math.gcd(*shares)
    stages = [
        [stage.order or "shuffled", share // common]
        for stage, share in zip(config.stages, shares, strict=True)
    ]
    yield _at(f"{_CURRICULUM}.order", {"kind": "stages", "stages": stages, "pass_samples": drawn})


def _mix(config: RunConfig, ends: Sequence[Counters] | None) -> Iterator[dict[str, Any]]:
    """The weights of a blend's parts."""
    if not _has(config.stages, "mix"):
        return
    _refuse_both(config, "mix", "data_sampling", ("mix",))
    if ends is None:
        return
    points = [0, *(end.consumed_samples for end in ends[:-1])]
    weights = [stage.mix for stage in config.stages]
    yield _at("data_sampling.mix", {"weights": weights, "at_samples": points})


def _metrics_of(
    config: RunConfig, key: str, clustering: str, *, most: int | None = None
) -> list[str]:
    """The metrics of a kind, of which a stage's key needs one at least."""
    metrics = value_at(config.data_efficiency, _METRICS) or {}
    found = [
        name
        for name, metric in metrics.items()
        if value_at(metric, "clustering_type") == clustering
    ]
    if not 1 <= len(found) <= (most or len(found)):
        count = "one metric" if most == 1 else "a metric"
        raise ConfigError(
            f"stages have {key!r}, which needs {count} whose clustering_type is {clustering} in data_efficiency.{_METRICS}, and "
            f"there {'is none' if not found else 'are ' + ', '.join(found)}: name its index_path there, and nothing that paces it"
        )
    return found


def _refuse_both(config: RunConfig, key: str, place: str, names: Sequence[str]) -> None:
    """Raise ConfigError where a table has what a stage says."""
    for name in names:
        written = value_at(config.data_efficiency, f"{place}.{name}")
        if written is not None:
            raise ConfigError(
                f"data_efficiency.{place}.{name} is {written!r}, and stages have {key!r}, which stand for it: write one of the two"
            )


def _at(dotted: str, value: Any) -> dict[str, Any]:
    """The objects in objects that have a value under a dotted key."""
    for key in reversed(dotted.split(".")):
        value = {key: value}
    found: dict[str, Any] = value
    return found
