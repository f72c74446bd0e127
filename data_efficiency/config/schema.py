"""The JSON file as a JSON schema, which editors complete and check by.

It knows names, types, ranges and what is needed. What follows from several keys together is told by
`load_config` alone.

Source: JSON Schema, draft 2020-12.
"""

from collections.abc import Mapping
from dataclasses import MISSING
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from data_efficiency.config.deepspeed_sections import DEEPSPEED_SECTIONS
from data_efficiency.config.json_objects import JSON_OBJECTS, PREFIXES, JsonKey, json_keys
from data_efficiency.config.order import SORTED, WHOLE
from data_efficiency.config.random_ltd import KEPT_LENGTH_NAMES
from data_efficiency.json_section import AUTO, FOUND, AtLeast, Section
from data_efficiency.schedule.registry import (
    batch_size_kinds,
    curriculum_kinds,
    kept_length_kinds,
    kept_rows_kinds,
)

_MAY_BE_AUTO = {
    "METRIC": ("max_difficulty",),
    "RANDOM_LTD.random_ltd_schedule": ("max_value",),
}
"""Place of an object -> its keys that may be "auto", but not left out."""
_SWITCHED = ("RANDOM_LTD", "LAYER_DROPOUT", "TOKEN_SUPERPOSITION", "curriculum_learning")
"""Objects whose keys are needed only where they are enabled."""
_SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}


def config_schema() -> dict[str, Any]:
    """The schema of the whole file, plain JSON data; kinds of schedules that are registered are in it."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DeepSpeed's JSON file, as data_efficiency reads it",
        **_new_object(),
    }
    root["properties"] |= {name: {} for name in sorted(DEEPSPEED_SECTIONS)}
    for place, keys, names in JSON_OBJECTS:
        found = _object_at(root, place)
        for key in json_keys(keys, names):
            found["properties"][key.key] = _value(place, key)
            is_needed = key.default is MISSING and not _is_optional(key)
            if is_needed and not place.endswith("schedule_config"):
                found["required"].append(key.key)
    _add_schedules(_object_at(root, "METRIC"), curriculum_kinds(), {})
    batch_size = _object_at(root, "data_efficiency.data_sampling.batch_size")
    _add_schedules(batch_size, batch_size_kinds(), {})
    _add_schedules(
        _object_at(root, "RANDOM_LTD.random_ltd_schedule"), kept_length_kinds(), KEPT_LENGTH_NAMES
    )
    _add_schedules(_object_at(root, "LAYER_DROPOUT.keep_schedule"), kept_rows_kinds(), {})
    spans = _object_at(root, "RANDOM_LTD")["properties"]["random_ltd_layer_id"]["anyOf"]
    spans.append({"type": "array", "items": spans[0]})
    _need_pacing_unless_sorted(_object_at(root, "METRIC"))
    legacy = _object_at(root, "curriculum_learning")
    legacy["properties"] |= {
        name: _object_at(root, "METRIC")["properties"][name]
        for name in ("schedule_type", "schedule_config")
    }
    for place in _SWITCHED:
        switched = _object_at(root, place)
        is_on = {"properties": {"enabled": {"const": True}}, "required": ["enabled"]}
        switched |= {"if": is_on, "then": {"required": switched.pop("required")}}
    return root


def _need_pacing_unless_sorted(metric: dict[str, Any]) -> None:
    """Let a metric that sorts leave out what paces the others."""
    needed = [key for key in metric["required"] if key in WHOLE]
    metric["required"] = [key for key in metric["required"] if key not in WHOLE]
    is_sorted = {
        "properties": {"clustering_type": {"const": SORTED}},
        "required": ["clustering_type"],
    }
    metric["allOf"].append({"if": is_sorted, "else": {"required": needed}})


def _new_object() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def _object_at(root: dict[str, Any], place: str) -> dict[str, Any]:
    """The schema of the object at a place, made where it is not there."""
    first, _, rest = place.partition(".")
    found = root
    for name in ".".join(filter(None, (PREFIXES.get(first, first), rest))).split("."):
        if name == "*":
            if not found.get("additionalProperties"):
                found["additionalProperties"] = _new_object()
            found = found["additionalProperties"]
        elif name:
            inner = found["properties"].setdefault(name, {})
            if "properties" not in inner:
                inner |= _new_object()
            found = inner
    return found


def _is_optional(key: JsonKey) -> bool:
    return key.hint is Section or NoneType in get_args(key.hint) or FOUND in key.rules


def _value(place: str, key: JsonKey) -> dict[str, Any]:
    """The schema of a key's value."""
    schema = _type(key.hint)
    least = next((rule.number for rule in key.rules if isinstance(rule, AtLeast)), None)
    if least is not None:
        schema["minimum"] = least
    may_be_auto = FOUND in key.rules or key.key in _MAY_BE_AUTO.get(place, ())
    if may_be_auto or key.hint == int | None or (key.hint is float and key.default is not MISSING):
        schema = {"anyOf": [schema, {"const": AUTO}]}
    if key.default not in (MISSING, None) and isinstance(key.default, bool | int | float | str):
        schema["default"] = key.default
    return {"description": key.doc, **schema}


def _type(hint: Any) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint is Section:
        return _new_object()
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": {"type": "integer"}}
    kinds = get_args(hint)
    if NoneType in kinds:
        if hint == int | None:
            return {"type": "integer", "minimum": 1}
        (kind,) = (one for one in kinds if one is not NoneType)
        return {"anyOf": [_type(kind), {"type": "null"}]}
    return dict(_SCALARS[hint])


def _add_schedules(
    paced: dict[str, Any], kinds: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Write the kinds into an object that has a schedule, and what each kind needs."""
    paced["properties"]["schedule_type"] |= {"enum": list(kinds)}
    details, conditions = paced["properties"]["schedule_config"], []
    for kind, schedule in kinds.items():
        needed = []
        for key in json_keys(schedule, {}):
            if key.key in ("root_degree", "function") and kind != "fixed_root":
                continue
            written = names.get(key.key, key.key)
            details["properties"].setdefault(written, _value("", key))
            is_needed = key.default is MISSING or key.key == "root_degree"
            if is_needed and kind not in ("constant", "custom"):
                needed.append(written)
        says_so = {"properties": {"schedule_type": {"const": kind}}, "required": ["schedule_type"]}
        config = {"required": needed}
        then = {"properties": {"schedule_config": config}, "required": ["schedule_config"]}
        if needed:
            conditions.append({"if": says_so, "then": then})
    paced["allOf"] = conditions
