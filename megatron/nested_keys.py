"""Objects in objects, as JSON and run files have them: laid over each other, read and written by dotted keys."""

from collections.abc import Mapping
from typing import Any

from data_efficiency import ConfigError


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two objects as one, section by section; what stands above counts.

    Example:
        >>> merged({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}})
        {'a': 1, 'b': {'c': 4, 'd': 3}}
    """
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        is_section = isinstance(value, Mapping) and isinstance(under, Mapping)
        both[key] = merged(under, value) if is_section else value  # type: ignore[arg-type]
    return both


def copied(value: Any) -> Any:
    """A copy of sections that nobody else holds."""
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, (list, tuple)) else value


def value_at(content: Any, dotted: str) -> Any:
    """What stands under keys within keys; None where nothing does."""
    for key in dotted.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def put(content: dict[str, Any], dotted: str, value: Any) -> None:
    """Write a value under keys within keys; what is not there is made.

    Raises:
        ConfigError: where something else than an object is in the way.
    """
    *parents, last = dotted.split(".")
    for key in parents:
        inner = content.get(key)
        if inner is None:
            inner = content[key] = {}
        elif not isinstance(inner, dict):
            raise ConfigError(f"{key} is {inner!r}: must be an object")
        content = inner
    content[last] = value
