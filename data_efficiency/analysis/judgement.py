"""Is a metric worth a curriculum? How it spreads, and what it has to do with length and with other metrics."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_efficiency.difficulty_index import DifficultyIndex

LENGTH = "length"
MOST_ALIKE = 0.5
"""Share of the samples with one difficulty from which on percentiles no longer tell them apart."""
FEWEST_VALUES = 5
"""Distinct difficulties below which a curriculum has a few big steps."""
SAME_ORDER = 0.95
"""Rank correlation from which on two metrics say the same."""
NO_RELATION = 0.1
"""Rank correlation below which two metrics have nothing to do with each other."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What can be said of a metric without a training run."""

    num_distinct_values: int
    largest_share: float
    """Of the samples that have the most frequent difficulty."""
    most_frequent: int | float
    middle_half: tuple[int | float, int | float]
    """Difficulties at percentiles 25 and 75."""
    correlations: Mapping[str, float]
    """Name of another order of the samples -> Spearman's rank correlation with it; NaN where one is constant."""
    warnings: tuple[str, ...]


def judge(index: DifficultyIndex, others: Mapping[str, NDArray[np.number]]) -> Judgement:
    """What an index tells of its metric.

    Args:
        others: name -> one number for each sample of the same dataset, [N]; `LENGTH` are the samples' lengths,
            which may all be the same.
    """
    values, counts = np.unique(index.values, return_counts=True)
    place = int(counts.argmax())
    share = float(counts[place] / index.num_samples)
    quarter, last = index.num_samples // 4, index.num_samples - 1
    correlations = {
        name: rank_correlation(index.values, other)
        for name, other in others.items()
        if name != LENGTH or other.min() < other.max()
    }
    return Judgement(
        num_distinct_values=len(values),
        largest_share=share,
        most_frequent=values[place].item(),
        middle_half=(
            index.values[index.order[quarter]].item(),
            index.values[index.order[last - quarter]].item(),
        ),
        correlations=correlations,
        warnings=tuple(_warnings(len(values), share, values[place].item(), correlations)),
    )


def judgement_text(found: Judgement, num_samples: int) -> str:
    """A judgement as a few lines of text."""
    low, high = found.middle_half
    lines = [
        f"{num_samples:,} samples, {found.num_distinct_values:,} difficulties",
        f"the middle half has difficulties from {low:,} to {high:,}",
        f"{100 * found.largest_share:.2f} % have the most frequent one, {found.most_frequent:,}",
    ]
    for name, correlation in found.correlations.items():
        lines.append(f"rank correlation with {name}: {correlation:+.3f}")
    return "\n".join([*lines, *(f"warning: {sentence}" for sentence in found.warnings)])


def rank_correlation(first: NDArray[np.number], second: NDArray[np.number]) -> float:
    """Spearman's rank correlation, equal numbers sharing their mean rank; NaN where all are equal.

    Source: Spearman, "The Proof and Measurement of Association between Two Things" (1904).

    Example:
        >>> rank_correlation(np.array([1, 2, 3]), np.array([10, 30, 20]))
        0.5
    """
    ranks = [_ranks(numbers) for numbers in (first, second)]
    a, b = (one - one.mean() for one in ranks)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / scale, 12) if scale else float("nan")


def _ranks(numbers: NDArray[np.number]) -> NDArray[np.float64]:
    """The rank of each number, from 0; equal ones have the mean of theirs."""
    _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts + 1) / 2)[place]
    return ranks


def _warnings(
    num_values: int, share: float, most_frequent: int | float, correlations: Mapping[str, float]
) -> Iterator[str]:
    """One sentence for each reason why a curriculum on the metric would do little."""
    if num_values == 1:
        yield f"every sample has the difficulty {most_frequent}: the metric separates nothing"
        return
    if share >= MOST_ALIKE:
        yield (
            f"{100 * share:.0f} % of the samples have the difficulty {most_frequent}: the metric does not "
            "separate them, whatever the pacing"
        )
    if num_values < FEWEST_VALUES:
        yield f"there are {num_values} difficulties: the pool grows in as many steps at most"
    for name, correlation in correlations.items():
        if abs(correlation) >= SAME_ORDER:
            opposite = "" if correlation > 0 else ", turned round"
            does = "pacing the length does" if name == LENGTH else f"{name} does"
            yield f"it orders the samples as {name}{opposite} ({correlation:+.3f}): {does} the same"
        elif name != LENGTH and abs(correlation) < NO_RELATION:
            yield f"it has next to nothing to do with {name} ({correlation:+.3f})"
