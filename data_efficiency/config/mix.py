"""The `mix` of data_sampling: in which proportions the parts of a blend are drawn, as the run goes on."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from data_efficiency.json_section import ConfigError, Section


@dataclass(frozen=True, kw_only=True)
class MixKeys:
    """`data_efficiency.data_sampling.mix`."""

    weights: Any
    """A list of lists: the weights of the parts at each point, in any unit, in the order of `--data-path`. A part may
    have weight 0 for a while. The first ones are those of the dataset, where it has weights too."""
    at_tokens: Any = None
    """The points, in tokens drawn so far: samples x the length of the rows, before anything is cut. The first is 0."""
    at_samples: Any = None
    """Instead of at_tokens: the points in samples drawn so far."""
    between: Literal["constant", "linear"] = "constant"
    """constant: a point's weights hold up to the next one. linear: they change evenly between the points. The last
    ones hold to the end."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Weights of a blend's parts at some points of the run."""

    weights: tuple[tuple[float, ...], ...]
    """[points][parts]: the sum of each point's is 1."""
    points: tuple[float, ...]
    """Increasing, the first one 0; where the weights begin to hold."""
    unit: Literal["tokens", "samples"] = "samples"
    """What the points count."""
    is_linear: bool = False

    def in_samples(self, length: int) -> "Mix":
        """The same, its points in samples of `length` tokens."""
        if self.unit == "samples":
            return self
        return replace(self, points=tuple(at / length for at in self.points), unit="samples")

    def section(self) -> dict[str, Any]:
        """The keys of the JSON file."""
        return {
            "weights": [list(one) for one in self.weights],
            f"at_{self.unit}": list(self.points),
            "between": "linear" if self.is_linear else "constant",
        }


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights with the sum 1."""
    return tuple(weight / sum(weights) for weight in weights)


def read_mix(section: Section) -> Mix:
    """The mix that the section describes.

    Raises:
        ConfigError: for points that do not increase from 0, or weights that are none.
    """
    keys, path = section.read(MixKeys), section.path
    section.close()
    if (keys.at_tokens is None) == (keys.at_samples is None):
        raise ConfigError(f"{path}: give at_tokens or at_samples, one of the two")
    unit: Literal["tokens", "samples"] = "samples" if keys.at_tokens is None else "tokens"
    points = _numbers(keys.at_samples if keys.at_tokens is None else keys.at_tokens)
    is_increasing = points is not None and all(low < high for low, high in pairwise(points))
    if not points or points[0] != 0 or not is_increasing:
        raise ConfigError(
            f"{path}.at_{unit} is {getattr(keys, f'at_{unit}')!r}: must be a list of numbers that increase from 0"
        )
    given = keys.weights if isinstance(keys.weights, list) else []
    weights = [_numbers(one) or [] for one in given]
    lengths = {len(one) for one in weights}
    if (
        len(weights) != len(points)
        or len(lengths) != 1
        or not all(0 < sum(one) < math.inf for one in weights)
    ):
        raise ConfigError(
            f"{path}.weights is {keys.weights!r}: must be a list of {len(points)} lists, one for each point, each "
            "with a number of at least 0 for each part, not all 0"
        )
    return Mix(
        weights=tuple(map(normalised, weights)),
        points=tuple(points),
        unit=unit,
        is_linear=keys.between == "linear",
    )


def _numbers(content: object) -> list[float] | None:
    """A list of finite numbers of at least 0; None where it is something else."""
    if not isinstance(content, list):
        return None
    is_number = all(type(one) in (int, float) and 0 <= one <= sys.float_info.max for one in content)
    return [float(one) for one in content] if is_number else None
