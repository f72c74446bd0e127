"""What the value of a setting may be: ranges that stand in a field's type, and what is checked of all.

num_layers: Annotated[int, POSITIVE] = 12
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, get_type_hints


class Range(NamedTuple):
    """The numbers that a field may have; none of them is infinite or NaN."""

    rule: str
    holds: Callable[[float], bool]


POSITIVE = Range("must be positive", lambda value: value > 0)
NOT_NEGATIVE = Range("must be at least 0", lambda value: value >= 0)
SHARE = Range("must be from 0 to 1", lambda value: 0 <= value <= 1)
SHARE_BELOW_ONE = Range("must be at least 0 and below 1", lambda value: 0 <= value < 1)
SEED = Range("must be from -2^63 to 2^63 - 1", lambda value: -(2**63) <= value < 2**63)
BERT_ONLY = object()
"""Marks what a GPT has no use for."""
GPT_ONLY = object()
"""Marks what a BERT has no use for."""
ONLY_FOR_GPT = (
    "a BERT's samples are whole documents, and it has two losses; it belongs to pretrain_gpt.py"
)
ONLY_FOR_BERT = "a GPT's samples have no masks and no pairs; it belongs to pretrain_bert.py"


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raise ValueError, with the flag, its value and the rule, unless `condition` holds."""
    if not condition:
        flag = "--" + field.replace("_", "-")
        raise ValueError(f"{flag} is {value!r}: {rule}")


class Settings:
    """A group of settings: numbers are in their range, no text is empty."""

    marks: ClassVar[dict[str, tuple[Any, ...]]]
    """Field -> its range and other marks."""

    def __init_subclass__(cls) -> None:
        cls.marks = {
            name: getattr(hint, "__metadata__", ())
            for name, hint in get_type_hints(cls, include_extras=True).items()
        }

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for mark in self.marks.get(name, ()):
                if isinstance(mark, Range) and value is not None:
                    finite = not isinstance(value, float) or math.isfinite(value)
                    require(finite and mark.holds(value), name, value, mark.rule)
            for text in value if isinstance(value, tuple) else (value,):
                fine = not isinstance(text, str) or bool(text.strip())
                require(fine, name, text, "must not be empty: leave the flag out instead")
