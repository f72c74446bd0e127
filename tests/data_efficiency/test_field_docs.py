from dataclasses import dataclass

from data_efficiency.field_docs import field_docs


@dataclass
class Above:
    """Some."""

    first: int = 1
    """Of all
    fields."""


@dataclass
class Below(Above):
    """More."""

    second: int = 2
    """Last."""
    mute: int = 3


def test_what_stands_below_a_field_inherited_ones_too():
    assert field_docs(Below) == {"first": "Of all fields.", "second": "Last."}
