"""Where two pieces of plain JSON data differ: identities, settings, saved states."""

from collections.abc import Iterator, Mapping
from typing import Any


def differing_leaves(expected: Any, found: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, expected value, found value) of each leaf that differs, in the order of the names.

    Example:
        >>> list(differing_leaves({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}))
        [('a.c', 2, None)]
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted({*expected, *found}):
            field = f"{name}.{key}" if name else str(key)
            yield from differing_leaves(expected.get(key), found.get(key), field)
    elif expected != found:
        yield name, expected, found


def differing_fields(expected: Any, found: Any) -> list[str]:
    """One text `field: expected X, found Y` for each leaf in which two pieces of data differ."""
    return [
        f"{field}: expected {wanted!r}, found {present!r}"
        for field, wanted, present in differing_leaves(expected, found)
    ]
