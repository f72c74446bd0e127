"""Several datasets as one: numbered one after the other, drawn in proportion to weights.

A sample's number is its part's offset plus its own number there, whatever the weights, and the
identity is that of the parts: one difficulty index serves every blend of the same parts. Weights are
carried for the sampler, which draws by them. Nothing is built, copied or cached.

A worked example: parts of 5 and 3 samples: number 6 is sample 1 of the second part.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.token_windows import EmptySplitError
from megatron.data.row_dataset import RowDataset

logger = logging.getLogger(__name__)

Int64Array = NDArray[np.int64]
Part = TypeVar("Part", bound="Dataset")


class Dataset(Protocol):
    """What is read by whole batches, and says what it is."""

    identity: Mapping[str, Any]
    vocab_size: int | None
    sequence_length: int

    def __len__(self) -> int:
        """Samples."""

    def get_batch(
        self, samples: Int64Array, visits: Int64Array | None = None
    ) -> dict[str, Int64Array]:
        """Some samples, each entry [batch, ...]."""


class BlendedDataset(RowDataset):
    """Several datasets as one.

    Args:
        parts: datasets whose samples have the same entries and lengths.
        weights: how often a sample is drawn from each part, in any unit; all above 0.

    Raises:
        ValueError: for weights that are not above 0, or parts made with different tokenizers.
    """

    def __init__(self, parts: Sequence[Dataset], weights: Sequence[float]) -> None:
        if (
            not parts
            or len(parts) != len(weights)
            or not all(0 < weight < math.inf for weight in weights)
        ):
            raise ValueError(
                f"weights are {list(weights)}: each of {len(parts)} parts needs one above 0"
            )
        tokenizers = {part.identity.get("tokenizer") for part in parts} - {None}
        if len(tokenizers) > 1:
            raise ValueError(
                "the parts of the blend were made with different tokenizers: make them with one"
            )
        self._parts = tuple(parts)
        self.part_weights = tuple(float(weight) for weight in weights)
        self.part_sizes = tuple(len(part) for part in parts)
        self._ends = np.cumsum(self.part_sizes)
        sizes = [part.vocab_size for part in parts]
        self.vocab_size = None if None in sizes else max(size for size in sizes if size)
        ends = {getattr(part, "end_of_text", None) for part in parts}
        self.end_of_text = ends.pop() if len(ends) == 1 else None
        """Token that ends documents; None where it is not known, or not one."""
        self.sequence_length = max(part.sequence_length for part in parts)
        self.num_skipped_documents = sum(
            getattr(part, "num_skipped_documents", 0) for part in parts
        )
        self.identity: Mapping[str, Any] = {
            "type": "BlendedDataset",
            "tokenizer": next(iter(tokenizers), None),
            "parts": {str(number): dict(part.identity) for number, part in enumerate(parts)},
        }
        """What the difficulty index and the checkpoint must agree on."""

    def __len__(self) -> int:
        return int(self._ends[-1])

    def get_batch(
        self, samples: Int64Array, visits: Int64Array | None = None
    ) -> dict[str, Int64Array]:
        """The entries of some samples, in their order.

        Args:
            samples: int64 [batch], sample numbers.
            visits: int64 [batch], for parts whose samples change from visit to visit.
        """
        samples = np.asarray(samples, np.int64)
        part_of = np.searchsorted(self._ends, samples, side="right")
        batch: dict[str, Int64Array] = {}
        for number in np.unique(part_of).tolist():
            rows = np.flatnonzero(part_of == number)
            first = int(self._ends[number]) - self.part_sizes[number]
            own_visits = None if visits is None else visits[rows]
            for name, values in (
                self._parts[number].get_batch(samples[rows] - first, own_visits).items()
            ):
                if name not in batch:
                    batch[name] = np.empty((len(samples), *values.shape[1:]), values.dtype)
                batch[name][rows] = values
        return batch

    def token_spans(self, first: int, last: int) -> tuple[NDArray[Any], Int64Array, Int64Array]:
        """As `GPTDataset.token_spans`; a stretch over several parts is copied."""
        spans, num_tokens = [], 0
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            begin = end - len(part)
            low, high = max(first, begin), min(last, end)
            if low < high:
                tokens, starts, lengths = part.token_spans(low - begin, high - begin)  # type: ignore[attr-defined]
                spans.append((tokens, starts + num_tokens, lengths))
                num_tokens += len(tokens)
        if len(spans) == 1:
            return spans[0]
        tokens, starts, lengths = (np.concatenate(column) for column in zip(*spans, strict=True))
        return tokens, starts, lengths


class ReorderedDataset:
    """A dataset whose samples are numbered anew: number i is sample order[i]."""

    def __init__(self, dataset: Dataset, order: Int64Array) -> None:
        self._dataset, self._order = dataset, order
        self.identity, self.vocab_size = dataset.identity, dataset.vocab_size
        self.sequence_length = dataset.sequence_length

    def __len__(self) -> int:
        return len(self._order)

    def get_batch(
        self, samples: Int64Array, visits: Int64Array | None = None
    ) -> dict[str, Int64Array]:
        """As the dataset's `get_batch`."""
        return self._dataset.get_batch(self._order[samples], visits)


def in_proportion(dataset: Dataset) -> Dataset:
    """The dataset with a blend's parts interleaved by weight, for readers who take its first samples.

    Every sample is there once: where a part is used up, the others go on.
    """
    if not isinstance(dataset, BlendedDataset):
        return dataset
    due = [
        (np.arange(size) + 0.5) / weight
        for size, weight in zip(dataset.part_sizes, dataset.part_weights, strict=True)
    ]
    return ReorderedDataset(dataset, np.argsort(np.concatenate(due), kind="stable"))


def open_dataset(
    kind: Callable[..., Part], data_path: Sequence[str], *settings: Any, **options: Any
) -> Part | BlendedDataset:
    """The samples of one corpus, or of several that are blended.

    Args:
        kind: makes a dataset of a path, `settings` and `options`, such as `GPTDataset`.
        data_path: one path, or weights and paths in turn: W1 PATH1 W2 PATH2.

    Raises:
        ValueError: for weights and paths that are not in turn, and as the kind.
        FileNotFoundError: if a corpus is missing.
    """
    weights, paths = _weights_and_paths(data_path)
    parts = [kind(path, *settings, **options) for path in paths]
    return parts[0] if len(data_path) == 1 else BlendedDataset(parts, weights)


def open_validation(
    kind: Callable[..., Dataset], data_path: Sequence[str], *settings: Any, **options: Any
) -> Dataset | None:
    """The validation samples as `open_dataset` and `in_proportion` give them; None where there are none.

    A corpus whose validation split is empty is left out, which is logged; errors as `open_dataset`.
    """
    found = []
    for weight, path in zip(*_weights_and_paths(data_path), strict=True):
        try:
            part = kind(path, *settings, split_name="valid", **options)
        except EmptySplitError as error:
            logger.warning("no validation on %s: %s", path, error)
        else:
            found.append((part, weight))
    if len(found) <= 1:
        return found[0][0] if found else None
    parts, weights = zip(*found, strict=True)
    return in_proportion(BlendedDataset(parts, weights))


def _weights_and_paths(data_path: Sequence[str]) -> tuple[list[float], Sequence[str]]:
    if len(data_path) == 1:
        return [1.0], data_path
    try:
        weights = [float(text) for text in data_path[::2]]
    except ValueError:
        weights = []
    if len(data_path) % 2 or not weights:
        raise ValueError(
            f"--data-path is {' '.join(data_path)}: must be one path, or weights and paths in turn, "
            "such as 0.7 PATH1 0.3 PATH2"
        )
    return weights, data_path[1::2]
