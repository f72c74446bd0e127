"""A parsed configuration as the `data_efficiency` section that it is parsed from."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, get_type_hints

from data_efficiency.config.data_efficiency import DataEfficiencyConfig
from data_efficiency.config.layer_dropout import LayerDropoutConfig
from data_efficiency.config.metrics import LengthPlan, PacedMetric, Selection
from data_efficiency.config.order import SORTED
from data_efficiency.config.random_ltd import KEPT_LENGTH_NAMES, OpenRandomLTD, RandomLTDConfig
from data_efficiency.config.routing import ROUTES
from data_efficiency.json_section import AUTO, GIVEN, own_copy, written_key
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.registry import kind_of


def section_of(config: DataEfficiencyConfig) -> dict[str, Any]:
    """The section, plain JSON data: parsed again, it is the same configuration.

    A custom schedule's function is not in it, and must be set again.
    """
    is_curriculum = bool(config.metric_names or config.schedules)
    metrics = {name: _metric(config, name) for name in dict.fromkeys(_names(config))}
    curriculum: dict[str, Any] = {"enabled": is_curriculum}
    if is_curriculum:
        curriculum["curriculum_metrics"] = metrics
        curriculum["random_rank"] = config.random_rank
    if config.order is not None:
        curriculum["order"] = config.order.section()
    if config.data_cluster_path is not None:
        curriculum["data_cluster_path"] = config.data_cluster_path
    if config.sequence_axes is not None:
        curriculum["sequence_axes"] = {
            name: list(axes) for name, axes in config.sequence_axes.items()
        }
    routes: dict[str, Any] = {
        name: _ROUTE_WRITERS[name](getattr(config, name))
        if name in config.routes
        else {"enabled": False}
        for name in ROUTES
    }
    if config.full_from_step is not None:
        routes["full_from_step"] = config.full_from_step
    samples, batch = is_curriculum or config.reshapes_sampling, config.batch_size
    return {
        "enabled": samples or bool(config.routes),
        "seed": config.seed,
        "data_sampling": {
            "enabled": samples,
            "num_epochs": config.num_epochs,
            "num_workers": config.num_workers,
            "pin_memory": config.pin_memory,
            **({} if config.mix is None else {"mix": config.mix.section()}),
            **(
                {}
                if config.length_buckets is None
                else {"length_buckets": config.length_buckets.section()}
            ),
            **({} if config.feedback is None else {"feedback": config.feedback.section()}),
            **(
                {} if batch is None else {"batch_size": batch.section() | _schedule(batch.schedule)}
            ),
            "curriculum_learning": curriculum,
        },
        "data_routing": {"enabled": bool(config.routes), **routes},
    }


def _names(config: DataEfficiencyConfig) -> list[str]:
    open_ones = [plan.name for plan in config.open_length_plans]
    return [*config.metric_names, *config.schedules, *open_ones]


def _metric(config: DataEfficiencyConfig, name: str) -> dict[str, Any]:
    for open_plan in config.open_length_plans:
        if open_plan.name == name:
            return dict(own_copy(open_plan.content))
    selection = next((one for one in config.selections if one.name == name), None)
    plan = next((one for one in config.length_plans if one.name == name), None)
    paced = selection or plan
    assert paced is not None
    if selection is not None and selection.sorts:
        return {"clustering_type": SORTED} | _selecting(selection)
    written = _paced(paced) | {
        "clustering_type": "single_cluster" if selection is None else "schedule_based"
    }
    return written | _selecting(selection) | _lengthening(plan)


def _paced(metric: PacedMetric) -> dict[str, Any]:
    return {
        "difficulty_type": metric.difficulty_type,
        "min_difficulty": metric.min_difficulty,
        "max_difficulty": metric.max_difficulty,
        **_schedule(metric.schedule),
    }


def _selecting(selection: Selection | None) -> dict[str, Any]:
    if selection is None:
        return {}
    written = {"index_path": selection.index_path}
    optional = {
        "index_to_metric_path": selection.values_path,
        "shuffle_index": selection.shuffle_index,
        "trust_order": selection.trust_order or None,
        "window_size": selection.window_size,
        "num_bands": selection.num_bands,
    }
    return written | {key: value for key, value in optional.items() if value is not None}


def _lengthening(plan: LengthPlan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    multiple = {} if plan.length_multiple == 1 else {"length_multiple": plan.length_multiple}
    constant = {"constant_tokens": True} if plan.constant_tokens else {}
    kept: dict[str, Any] = (
        {} if plan.keep_end_token is None else {"keep_end_token": plan.keep_end_token}
    )
    kept = {"keep_end_token": AUTO} if plan.finds_end_token else kept
    return {"sequence_length": plan.action, **multiple, **constant, **kept}


def _schedule(schedule: Schedule, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`schedule_type` and `schedule_config`."""
    kind, left_out = kind_of(schedule)
    hints = get_type_hints(type(schedule), include_extras=True)
    details = {}
    for field in fields(schedule):
        rules = getattr(hints[field.name], "__metadata__", ())
        if GIVEN in rules or field.name in left_out:
            continue
        key = written_key(field.name, hints[field.name])
        value = getattr(schedule, field.name)
        details[(names or {}).get(key, key)] = list(value) if isinstance(value, tuple) else value
    return {"schedule_type": kind, "schedule_config": details}


def _random_ltd(dropping: RandomLTDConfig | OpenRandomLTD) -> dict[str, Any]:
    if isinstance(dropping, OpenRandomLTD):
        return {**own_copy(dropping.content), "enabled": True}
    schedule: Any = dropping.schedule
    written: dict[str, Any] = {
        "enabled": True,
        "total_layer_num": dropping.total_layer_num,
        "random_ltd_layer_num": dropping.random_ltd_layer_num,
        "random_ltd_layer_id": [list(span) for span in dropping.spans]
        or list(dropping.random_ltd_layer_id),
        "model_mask_name": dropping.model_mask_name,
        "model_type": dropping.model_type,
        "hidden_state_order": dropping.hidden_state_order,
        "always_keep": list(dropping.always_keep),
        "always_keep_labelled": dropping.always_keep_labelled,
        "residual_scale": dropping.residual_scale,
        "random_ltd_schedule": {
            "min_value": getattr(schedule, "min_difficulty", 1),
            "max_value": getattr(schedule, "max_difficulty", 1),
            "unit": dropping.kept_length_unit,
            **_schedule(schedule, KEPT_LENGTH_NAMES),
        },
    }
    if dropping.layer_token_lr is not None:
        written["layer_token_lr_schedule"] = {
            "enabled": True,
            "total_layer_tokens": dropping.layer_token_lr.decay,
            "warmup_layer_tokens": dropping.layer_token_lr.warmup,
        }
    return written


def _layer_dropout(dropout: LayerDropoutConfig) -> dict[str, Any]:
    schedule: Any = dropout.schedule
    return {
        "enabled": True,
        "rows_per_group": dropout.rows_per_group,
        "layer_id": list(dropout.layer_id),
        "depth": dropout.depth,
        "residual_scale": dropout.residual_scale,
        "keep_schedule": {
            "min_value": getattr(schedule, "min_difficulty", 1),
            "max_value": getattr(schedule, "max_difficulty", 100),
            **_schedule(schedule),
        },
    }


_ROUTE_WRITERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "random_ltd": _random_ltd,
    "layer_dropout": _layer_dropout,
    "token_superposition": lambda superposition: {"enabled": True, **asdict(superposition)},
}
