"""The stages of a run: what its run file lists one after the other, each with its share of the whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from data_efficiency import ConfigError
from data_efficiency.json_section import Faults, Section


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`[[stages]]` of a run file of pretraining. What a stage leaves out is whole in it."""

    share: float
    """Share of the run, of what --train-tokens counts, or else samples or steps; above 0, and 1 over all stages. A stage ends with the
    step that fills its share."""
    seq_length: int | None = None
    """Rows are cut to so many tokens. Left out: whole rows."""
    attention_window: int | None = None
    """Blocks of so many positions are all that attention looks at. Left out: whole rows."""
    sliding_window: int | None = None
    """The same, a window for each position."""
    kept_length: int | None = None
    """Tokens that layers of random-LTD keep. Left out: all."""
    kept_rows: int | None = None
    """Percent of the rows that the deepest layer keeps (layer dropout). Left out: 100."""
    pool: int | None = None
    """Percent of the samples, the easiest, that may be drawn, by the metric whose clustering_type is schedule_based. Left out: 100."""
    order: Literal["shuffled", "ascending", "descending"] | None = None
    """How samples are played, by the metrics whose clustering_type is sorted. Left out: shuffled."""
    mix: Any = None
    """Weights of the parts of --data-path, which the first stage's are too. All stages have it, or none."""
    lr_factor: float = 1.0
    """What the learning rate is multiplied by."""


def read_stages(content: object, place: str) -> tuple[Stage, ...]:
    """The stages that a run file lists.

    Args:
        place: what to call the list in an error.

    Raises:
        ConfigError: with all that is wrong in them.
    """
    if not isinstance(content, list) or len(content) < 2:
        raise ConfigError(
            f"{place} is {content!r}: must be a list of two tables or more, [[stages]] each; a run of one stage is written "
            "in the other tables"
        )
    faults = Faults()
    read = [
        faults.ask(lambda one=one, number=number: _read(one, f"{place}[{number}]"))  # type: ignore[misc]
        for number, one in enumerate(content)
    ]
    faults.refuse()
    stages = tuple(stage for stage in read if stage is not None)
    _refuse_contradictions(stages, place)
    return stages


def _read(content: object, place: str) -> Stage:
    section = Section(content, place)
    faults = Faults()
    stage = faults.ask(lambda: section.read(Stage))
    faults.ask(section.close)
    faults.refuse()
    assert stage is not None
    for name, is_right, rule in (
        ("share", 0 < stage.share < 1, "above 0 and below 1"),
        ("kept_rows", (stage.kept_rows or 100) <= 100, "at most 100 percent"),
        ("pool", (stage.pool or 100) <= 100, "at most 100 percent"),
        ("lr_factor", stage.lr_factor > 0, "above 0"),
        ("mix", stage.mix is None or _are_weights(stage.mix), "a list of weights, not all 0"),
    ):
        if not is_right:
            raise ConfigError(f"{place}.{name} is {getattr(stage, name)!r}: must be {rule}")
    return stage


def _are_weights(content: object) -> bool:
    return (
        isinstance(content, list)
        and all(type(one) in (int, float) and 0 <= one < math.inf for one in content)
        and sum(content) > 0
    )


def _refuse_contradictions(stages: Sequence[Stage], place: str) -> None:
    """Raise ConfigError for stages that do not go together."""
    if sum(shares_of(stages)) != 1:
        raise ConfigError(
            f"{place}: the shares are {[stage.share for stage in stages]}: together they must be 1"
        )
    mixed = [stage.mix is not None for stage in stages]
    if any(mixed) and not all(mixed):
        raise ConfigError(
            f"{place}[{mixed.index(False)}].mix is not given: all stages have a mix, or none"
        )
    if any(mixed) and any(stage.order for stage in stages):
        raise ConfigError(
            f"{place}: stages have an order and a mix: each part of a blend goes through its own order, at a speed that "
            "follows from its weight; keep one of the two, and the weights of --data-path"
        )
    pools = [stage.pool or 100 for stage in stages]
    if pools != sorted(pools):
        raise ConfigError(
            f"{place}: the pools are {pools}: a pool keeps what it has, so no stage's may be smaller than the one before"
        )


def shares_of(stages: Sequence[Stage]) -> list[Fraction]:
    """The shares as they are written in decimals, exact.

    Example:
        >>> shares_of([Stage(share=0.1), Stage(share=0.9)])
        [Fraction(1, 10), Fraction(9, 10)]
    """
    return [Fraction(repr(stage.share)) for stage in stages]
