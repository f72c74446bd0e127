"""The metrics of GLUE, on numpy arrays.

Source: GLUE (Wang et al., 2018), section 3; Matthews (1975) for the correlation of two classes.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64] | npt.NDArray[np.int64]


def accuracy(predicted: Values, expected: Values) -> float:
    """Share of equal entries."""
    return float(np.mean(predicted == expected))


def f1(predicted: Values, expected: Values) -> float:
    """Harmonic mean of precision and recall of class 1; 0 where neither array has it."""
    both = np.sum((predicted == 1) & (expected == 1))
    either = np.sum(predicted == 1) + np.sum(expected == 1)
    return float(2 * both / either) if either else 0.0


def matthews(predicted: Values, expected: Values) -> float:
    """Correlation of two arrays of classes 0 and 1; 0 where one of them is constant."""
    return pearson(predicted, expected)


def pearson(predicted: Values, expected: Values) -> float:
    """Linear correlation; 0 where one of the arrays is constant."""
    x, y = (np.asarray(values, np.float64) - np.mean(values) for values in (predicted, expected))
    norm = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / norm) if norm > 0 else 0.0


def spearman(predicted: Values, expected: Values) -> float:
    """Correlation of the ranks, where equal values share the mean of theirs."""
    return pearson(_ranks(predicted), _ranks(expected))


def _ranks(values: Values) -> npt.NDArray[np.float64]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
