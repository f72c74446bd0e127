"""A blend: a dataset of several parts, drawn in given proportions.

A dataset says that it is one by `part_sizes` and `part_weights`; its sample numbers run through the
parts one after the other. The weights are those of the configuration's mix, or the dataset's own all the time. A batch takes from each part what
brings all that was ever drawn nearest to the weights; within a part every admitted sample is equally
likely, as without a blend. What was drawn of each part is the sum of its clusters' positions, so there
is no state of its own.

A worked example: weights 0.75 and 0.25 give the parts 0 0 1 0, and again 0 0 1 0.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Mix, normalised
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.draw import ClusterChoice
from data_efficiency.sampling.mix_course import MixCourse

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """How large the parts are, and in which proportions they are drawn."""

    sizes: tuple[int, ...]
    mix: Mix
    """The weights, by samples drawn."""
    title: str = "the blend"
    """In an error."""

    @cached_property
    def course(self) -> MixCourse:
        """How much of each part the weights come to."""
        return MixCourse(self.mix)

    @property
    def ends(self) -> Int64Array:
        """int64 [parts]: the number after each part's last sample."""
        return np.cumsum(self.sizes)

    def identity(self) -> list[float] | dict[str, Any]:
        """What a run and its continuation must agree on: the weights, or the mix where they change."""
        is_constant = len(self.mix.points) == 1
        return list(self.mix.weights[0]) if is_constant else self.mix.section()

    def targets(self, num_drawn: float) -> NDArray[np.float64]:
        """float64 [parts]: how many samples of each part there are among the first `num_drawn`."""
        return self.course.targets(num_drawn)

    def parts_of(self, _step: int, drawn: Int64Array, num_rows: int) -> Int64Array:
        """The part that each row of a step is drawn from, as `next_parts`."""
        return next_parts(self.course, drawn, num_rows)

    def chooser(self, _step: int) -> ClusterChoice:
        """What chooses the part of each row, where every part is a cluster."""
        return self._choose_parts

    @property
    def drawn_parts(self) -> set[int]:
        """All of them."""
        return set(range(len(self.sizes)))

    def _choose_parts(
        self,
        _generator: np.random.Generator,
        _starts: Int64Array,
        positions: Int64Array,
        num_rows: int,
    ) -> Int64Array:
        return next_parts(self.course, positions, num_rows)


def blend_of(dataset: Any, mix: Mix | None = None) -> Blend | None:
    """How a dataset is blended; None where it is not.

    Args:
        mix: of the configuration, its points in samples; None: the dataset's weights, all the time.

    Raises:
        ValueError: if weights are not positive, sizes are not those of the dataset, or a part is empty.
        ConfigError: if the mix is of other parts, or does not begin with the dataset's weights.
    """
    weights = getattr(dataset, "part_weights", None)
    if weights is None and mix is not None:
        raise ConfigError(
            f"data_sampling.mix weighs the parts of a blend, but the dataset ({type(dataset).__name__}) has no "
            "part_sizes and part_weights: give a blend, or remove it"
        )
    if weights is None:
        return None
    sizes = tuple(dataset.part_sizes)
    if (
        len(sizes) != len(weights)
        or sum(sizes) != len(dataset)
        or not all(0 < weight < math.inf for weight in weights)
    ):
        raise ValueError(
            f"part_sizes is {sizes} and part_weights {tuple(weights)} for {len(dataset)} samples: "
            "each part needs a weight above 0, and the sizes must add up"
        )
    if not all(sizes):
        raise ValueError(
            f"part {sizes.index(0)} of the blend has no sample: leave it out of the blend"
        )
    shares = normalised(weights)
    if mix is not None:
        _refuse_other_weights(shares, mix)
    return Blend(sizes=sizes, mix=mix or Mix(weights=(shares,), points=(0.0,)))


def _refuse_other_weights(shares: tuple[float, ...], mix: Mix) -> None:
    first = mix.weights[0]
    if len(first) != len(shares) or not np.allclose(first, shares):
        raise ConfigError(
            f"data_sampling.mix begins with the weights {list(first)}, but those of the dataset's {len(shares)} "
            f"parts are {list(shares)}: begin the mix with these, or give the dataset (--data-path) the others"
        )


def next_parts(course: MixCourse, drawn: Int64Array, num_rows: int) -> Int64Array:
    """The part that each row is drawn from, so that the totals stay at what the weights come to.

    The k-th draw of a part, counted from 1, is due when the part's target reaches k - 1/2; rows take what is
    due first. So after n draws a part of constant weight w in m parts has n * w samples, up to
    (1 + w * m) / 2.

    Args:
        drawn: int64 [parts], samples taken from each part before.

    Returns:
        int64 [num_rows].

    Example:
        >>> course = MixCourse(Mix(weights=((0.75, 0.25),), points=(0.0,)))
        >>> next_parts(course, np.array([0, 0]), 8).tolist()
        [0, 0, 1, 0, 0, 0, 1, 0]

    Source: the divisor method of Sainte-Laguë.
    """
    # By then the targets hold as many draws as there are rows, and one half for each part.
    horizon = int(drawn.sum()) + num_rows + len(drawn)
    counts = np.maximum(np.floor(course.targets(horizon) + 0.5).astype(np.int64) - drawn, 0)
    parts = np.repeat(np.arange(len(drawn)), counts)
    due = [
        course.reached_at(part, before + np.arange(1, count + 1) - 0.5)
        for part, (before, count) in enumerate(zip(drawn.tolist(), counts.tolist(), strict=True))
    ]
    return parts[np.argsort(np.concatenate(due), kind="stable")[:num_rows]]
