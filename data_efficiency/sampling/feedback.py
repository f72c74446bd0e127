"""Samples drawn by the losses that a run had on them, in rounds: a batch is a function of (seed, step, values observed).

What is observed is kept in two numbers a sample, its last value and the one before. A round's pool is made once, of the values
of steps up to `Feedback.last_known`, whatever has been observed since; so it does not matter how far a loader reads ahead, and a
state of finished steps has all that the steps after it depend on.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import Feedback
from data_efficiency.hashing import hash_numbers
from data_efficiency.sampling.draw import (
    Arrange,
    Arranged,
    ClusterChoice,
    choose_by_size,
    shuffled_passes,
)
from data_efficiency.sampling.parts import Parts

Int64Array = NDArray[np.int64]
Values = NDArray[np.float32]
MOST_SAMPLES = 10_000_000
"""Of a dataset: two numbers a sample are part of each checkpoint's progress."""
_VISITS_IN_ROUND = 1 << 16


class FeedbackClusters:
    """The clusters of a run with feedback; `Clusters` says what the members mean.

    Each part of a blend has two: the first stands for all rounds before and is retired, the second is the present pool.

    Args:
        part_sizes: of a blend; else the number of samples alone.
        whole: chooses the part of each row; None: there is one part.

    Raises:
        ValueError: for more samples than values are kept of.
    """

    def __init__(
        self, settings: Feedback, part_sizes: Sequence[int], whole: Parts | None = None
    ) -> None:
        num_samples = sum(part_sizes)
        if num_samples > MOST_SAMPLES:
            raise ValueError(
                f"data_sampling.feedback keeps values of at most {MOST_SAMPLES} samples, and the dataset has {num_samples}: "
                "train on a part of it, or remove the section"
            )
        self._settings, self._whole = settings, whole
        self._edges = np.append(0, np.cumsum(part_sizes)).astype(np.int64)
        self.parts: Int64Array = np.arange(2 * len(part_sizes)) % len(part_sizes)
        self._observed = 0
        self._pending: list[tuple[int, Int64Array, Values]] = []
        self._forget(observed_step=0)

    @property
    def observed_step(self) -> int:
        """The last step whose values are known."""
        return self._observed

    def observe(self, step: int, samples: Int64Array, values: Sequence[float] | Values) -> None:
        """Take the values of a finished step; those that are no finite number are passed over.

        Raises:
            ValueError: unless it is the step after the last observed one, with a value for each of its samples.
        """
        if step != self._observed + 1:
            raise ValueError(
                f"values of step {step} were observed after those of step {self._observed}: each step's must be, once and "
                "in their order"
            )
        own, found = np.asarray(samples, np.int64), np.asarray(values, np.float32)
        is_inside = len(own) == 0 or (own.min() >= 0 and own.max() < self._edges[-1])
        if own.ndim != 1 or own.shape != found.shape or not is_inside:
            raise ValueError(
                f"step {step}: {found.shape} values for {own.shape} samples: must be one a sample of the dataset"
            )
        finite = np.isfinite(found)
        self._pending.append((step, own[finite], found[finite]))
        self._observed = step
        self._go_to(self._settings.round_of(step + 1))

    def boundaries(self, step: int) -> Int64Array:
        """Where the clusters start, and where the last one ends.

        Raises:
            ValueError: if values that the step depends on were not observed.
        """
        sizes = [len(pool) for pool in self._pools(step)]
        return np.append(np.zeros(len(sizes) + 1, np.int64), np.cumsum(sizes))

    def change_steps(self, until_step: int) -> Int64Array:
        """The steps at which rounds begin."""
        return np.arange(1, until_step + 1, self._settings.refresh_steps)

    def num_retired(self, _step: int) -> int:
        """Those that stand for the rounds before."""
        return len(self._edges) - 1

    def chooser(self, step: int) -> ClusterChoice:
        """What chooses the part of each row."""
        if self._whole is None:
            return partial(choose_by_size, num_retired=self.num_retired(step))
        return partial(self._choose_parts, step)

    def _choose_parts(
        self,
        step: int,
        generator: np.random.Generator,
        starts: Int64Array,
        positions: Int64Array,
        num_rows: int,
    ) -> Int64Array:
        assert self._whole is not None
        num_parts = self.num_retired(0)
        drawn = positions[:num_parts] + positions[num_parts:]
        return num_parts + self._whole.chooser(step)(generator, starts, drawn, num_rows)

    def samples_at(self, places: Int64Array) -> Int64Array:
        """Places are sample numbers."""
        return places

    def arranger(self, step: int) -> Arrange:
        """As `draw.shuffled_passes`, in passes of the step's own round."""
        number = self._settings.round_of(step)
        pools = np.concatenate(self._pools(step))

        def arrange(
            seed: int, starts: Int64Array, cluster: Int64Array, drawn: Int64Array
        ) -> Arranged:
            own_seed = int(hash_numbers(seed, number)[0] >> np.uint64(1))
            places, visits = shuffled_passes(own_seed, starts, cluster, drawn)
            return Arranged(pools[places], number * _VISITS_IN_ROUND + visits)

        return arrange

    def carried(self, step: int, positions: Int64Array) -> Int64Array:
        """The positions that a step draws from: at the beginning of a round, what was drawn before is past."""
        num_parts = self.num_retired(step)
        both = np.zeros(2 * num_parts, np.int64)
        both[: len(positions)] = positions
        if (step - 1) % self._settings.refresh_steps:
            return both
        return np.append(both[:num_parts] + both[num_parts:], np.zeros(num_parts, np.int64))

    def state_dict(self) -> dict[str, Any]:
        """What is known, as plain JSON data."""
        steps = [step for step, samples, _ in self._pending for _ in samples]
        samples = [samples for _, samples, _ in self._pending]
        values = [values for _, _, values in self._pending]
        return {
            "observed_step": self._observed,
            "round": self._round,
            "last": _packed(self._last),
            "before": _packed(self._before),
            "pending_steps": _packed(np.array(steps, np.int64)),
            "pending_samples": _packed(np.concatenate([np.zeros(0, np.int64), *samples])),
            "pending_values": _packed(np.concatenate([np.zeros(0, np.float32), *values])),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved state; one of an observed step alone knows nothing.

        Raises:
            ValueError: if it is damaged, or of another number of samples.
        """
        self._forget(observed_step=int(saved["observed_step"]))
        if "last" not in saved:
            return
        self._round = int(saved["round"])
        self._last, self._before = (
            _unpacked(saved[name], np.float32) for name in ("last", "before")
        )
        if not len(self._last) == len(self._before) == self._edges[-1]:
            raise ValueError(
                f"the saved feedback is of {len(self._last)} samples, the dataset has {self._edges[-1]}"
            )
        steps, samples = (
            _unpacked(saved[f"pending_{name}"], np.int64) for name in ("steps", "samples")
        )
        values = _unpacked(saved["pending_values"], np.float32)
        self._pending = [
            (step, samples[steps == step], values[steps == step])
            for step in np.unique(steps).tolist()
        ]

    def _forget(self, observed_step: int) -> None:
        """Stand behind a step, with nothing known."""
        self._observed = observed_step
        self._round = self._settings.round_of(observed_step + 1)
        """Whose ranking the two values of each sample are those of."""
        self._last = np.full(self._edges[-1], np.nan, np.float32)
        self._before = self._last.copy()
        self._pending = []
        self._made: dict[int, list[Int64Array]] = {}

    def _go_to(self, number: int) -> None:
        """Let the kept values be those of a round, which no step before is drawn by any more."""
        if number == self._round:
            return
        self._round = number
        known = self._settings.last_known(number)
        self._last, self._before = self._values_of(number)
        self._pending = [one for one in self._pending if one[0] > known]
        self._made = {key: pools for key, pools in self._made.items() if key >= number}

    def _values_of(self, number: int) -> tuple[Values, Values]:
        """The last value of each sample and the one before, as a round knows them."""
        last, before = self._last.copy(), self._before.copy()
        for step, samples, values in self._pending:
            if step <= self._settings.last_known(number):
                before[samples] = last[samples]
                last[samples] = values
        return last, before

    def _pools(self, step: int) -> list[Int64Array]:
        """The samples that a step may draw, part by part, ascending."""
        number = self._settings.round_of(step)
        if number not in self._made:
            known = self._settings.last_known(number)
            if known > self._observed:
                raise ValueError(
                    f"step {step} is drawn by the values of steps up to {known}, and those up to {self._observed} were "
                    "observed: train by engine.train_step with engine.note_rows, or call sampler.observe after each step"
                )
            if number < self._round:
                raise ValueError(f"step {step} is in the past: step {self._observed} was observed")
            last, before = self._values_of(number)
            ranked = {"high_loss": last, "low_loss": -last, "learnability": before - last}
            merit = ranked[self._settings.policy]
            self._made[number] = [
                first + _chosen(merit[first:end], self._settings.kept_share)
                for first, end in zip(self._edges, self._edges[1:], strict=False)
            ]
        return self._made[number]


def _chosen(merit: Values, share: float) -> Int64Array:
    """The places of what has no merit yet, and of the given share of the others, from the largest; ascending.

    Example:
        >>> _chosen(np.array([1, np.nan, 3, 2, 0], np.float32), 0.5).tolist()
        [1, 2, 3]
    """
    ranked = np.flatnonzero(~np.isnan(merit))
    best = ranked[np.argsort(-merit[ranked], kind="stable")]
    kept = best[: int(np.ceil(share * len(ranked)))]
    return np.sort(np.append(np.flatnonzero(np.isnan(merit)), kept))


def _packed(array: NDArray[Any]) -> str:
    """An array's bytes, compressed, as text."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 1)).decode("ascii")


def _unpacked(text: str, dtype: Any) -> NDArray[Any]:
    """What `_packed` made a text of."""
    content = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype)
