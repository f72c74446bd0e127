"""The curriculum sampler: global batches as a pure function of (seed, state), without collectives.

Every rank computes the same global batch and takes its own rows. The state is the number of steps
done and one position for each cluster admitted so far. A batch draws places uniformly from the pool,
so clusters take part in proportion to their size; which of the cluster's samples a draw becomes is
told by the cluster's position and a keyed permutation, so that no sample comes twice within one pass
of its cluster. Nothing is shuffled in memory or written to disk.

Row layout: rank r's micro-batch m of a step holds the rows from (r * accumulation + m) * micro batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import DataEfficiencyConfig, MetricConfig
from data_efficiency.difficulty_index import (
    DifficultyIndex,
    describe_dataset,
    differing_fields,
    fingerprint_of,
)
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.clusters import Clusters
from data_efficiency.sampling.permutation import make_keys, permute
from data_efficiency.schedule import CustomSchedule

Int64Array = NDArray[np.int64]
_DRAW = 1


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """The samples of one step, the same on every rank."""

    step: int
    """Counted from 1."""
    samples: Int64Array
    """int64 [rows]: sample numbers."""
    visits: Int64Array
    """int64 [rows]: how often the sample's cluster was passed through before."""
    difficulties: Mapping[str, int]
    """What each metric's schedule accepts at this step."""
    pool_size: int
    """Samples that could have been drawn."""


@dataclass(frozen=True, kw_only=True)
class SamplerState:
    """Where the sampler stands: plain integers."""

    step: int = 0
    positions: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [clusters admitted so far]: samples drawn from each cluster."""


class CurriculumSampler:
    """Draws the samples of each step; also a `batch_sampler` for a plain PyTorch DataLoader.

    As a batch sampler it yields this rank's micro-batches as lists of sample numbers.

    Args:
        dataset: anything with a length; its identity is checked against the difficulty index.
        config: the `data_efficiency` section; None samples uniformly.
        micro_batch_size: rows of one forward pass on one rank.
        gradient_accumulation_steps: micro-batches of a step on one rank.
        data_parallel_rank: this rank, 0 <= rank < size.
        data_parallel_size: ranks that share the global batch.
        drop_last: leave out the last global batch if the dataset's passes do not fill it; otherwise
            it is filled up from the next pass. Batches are always whole.

    Raises:
        ConfigError: for a configuration that cannot be sampled from.
        ValueError: if the difficulty index belongs to another dataset.
    """

    def __init__(
        self,
        dataset: Any,
        config: DataEfficiencyConfig | None = None,
        *,
        micro_batch_size: int,
        gradient_accumulation_steps: int = 1,
        data_parallel_rank: int = 0,
        data_parallel_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        config = config or DataEfficiencyConfig()
        if not 0 <= data_parallel_rank < data_parallel_size:
            raise ValueError(
                f"data_parallel_rank is {data_parallel_rank}: must be at least 0 and below "
                f"data_parallel_size ({data_parallel_size})"
            )
        self.micro_batch_size = micro_batch_size
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.rows_per_rank = micro_batch_size * gradient_accumulation_steps
        self.first_row = data_parallel_rank * self.rows_per_rank
        self.global_batch_size = data_parallel_size * self.rows_per_rank
        self.metrics = config.metrics
        self.seed = config.seed
        self._dataset_identity = describe_dataset(dataset)
        num_samples = len(dataset)
        if num_samples == 0:
            raise ValueError("the dataset is empty: there is nothing to sample")
        total = num_samples * config.num_epochs
        self.num_steps = total // self.global_batch_size
        if not drop_last and total % self.global_batch_size:
            self.num_steps += 1
        self._num_samples = num_samples
        self._index = _open_index(self.metrics, dataset)
        self._clusters = Clusters(num_samples, self._selecting_metric, self._index)
        self.state = SamplerState()
        self._has_drawn = False
        if self._selecting_metric and not isinstance(
            self._selecting_metric.schedule, CustomSchedule
        ):
            self._clusters.boundaries(1)

    def __len__(self) -> int:
        """Micro-batches of this rank from the beginning to the end."""
        return self.num_steps * self.gradient_accumulation_steps

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's micro-batches from the present state on, as lists of sample numbers."""
        while self.state.step < self.num_steps:
            samples = self.next_global_batch().samples
            for number in range(self.gradient_accumulation_steps):
                yield samples[self.micro_batch_rows(number)].tolist()

    def micro_batch_rows(self, number: int) -> slice:
        """The rows of the global batch that make this rank's micro-batch `number`."""
        first = self.first_row + number * self.micro_batch_size
        return slice(first, first + self.micro_batch_size)

    def difficulties(self, step: int) -> dict[str, int]:
        """What each metric's schedule accepts at `step`, counted from 1."""
        return {metric.name: metric.schedule.difficulty(step) for metric in self.metrics}

    def next_global_batch(self) -> GlobalBatch:
        """The next step's samples; the state moves on by one step."""
        step = self.state.step + 1
        self._has_drawn = True
        starts = self._clusters.boundaries(step)
        sizes = np.diff(starts)
        positions = np.zeros(len(sizes), np.int64)
        positions[: len(self.state.positions)] = self.state.positions

        generator = np.random.default_rng([self.seed, _DRAW, step])
        places = generator.integers(0, starts[-1], self.global_batch_size)
        cluster = np.searchsorted(starts, places, side="right") - 1
        drawn = positions[cluster] + _occurrence_numbers(cluster)
        visits, place_in_pass = np.divmod(drawn, sizes[cluster])
        keys = make_keys(self.seed, cluster, visits)
        places = starts[cluster] + permute(place_in_pass, sizes[cluster], keys)

        positions += np.bincount(cluster, minlength=len(sizes))
        self.state = SamplerState(step=step, positions=positions)
        return GlobalBatch(
            step=step,
            samples=self._clusters.samples_at(places),
            visits=visits,
            difficulties=self.difficulties(step),
            pool_size=int(starts[-1]),
        )

    def set_custom_schedules(self, functions: Mapping[str, Callable[[int], int]]) -> None:
        """Gives the metrics whose `schedule_type` is custom their functions of the step.

        Raises:
            ValueError: for an unknown metric, one with another schedule type, or after step 1.
        """
        if self._has_drawn:
            raise ValueError("custom schedules must be set before the first batch")
        custom = {
            metric.name for metric in self.metrics if isinstance(metric.schedule, CustomSchedule)
        }
        unknown = sorted(set(functions) - custom)
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no metric with schedule_type custom; those are {sorted(custom)}"
            )
        self.metrics = tuple(
            replace(metric, schedule=CustomSchedule(function=functions[metric.name]))
            if metric.name in functions
            else metric
            for metric in self.metrics
        )
        self._clusters = Clusters(self._num_samples, self._selecting_metric, self._index)

    def state_dict(self, state: SamplerState | None = None) -> dict[str, Any]:
        """The present (or given) state as plain JSON data, with what it depends on."""
        state = state or self.state
        return {
            "step": state.step,
            "positions": state.positions.tolist(),
            "depends_on": self._dependencies(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes to a saved state; the ranks and the batch size may have changed.

        Raises:
            ValueError: if seed, dataset or selecting metric differ from those of the state.
        """
        differences = differing_fields(saved["depends_on"], self._dependencies())
        if differences:
            raise ValueError(f"the saved sampler state is of another run: {'; '.join(differences)}")
        positions = np.array(saved["positions"], np.int64)
        self.state = SamplerState(step=int(saved["step"]), positions=positions)

    @property
    def _selecting_metric(self) -> MetricConfig | None:
        return next((metric for metric in self.metrics if metric.selects_samples), None)

    def _dependencies(self) -> dict[str, Any]:
        """What the meaning of the positions depends on, plain JSON data."""
        metric = self._selecting_metric
        selection: dict[str, Any] = {}
        if metric is not None:
            selection = {"name": metric.name, "difficulty_type": metric.difficulty_type}
            if not isinstance(metric.schedule, CustomSchedule):
                schedule: Any = metric.schedule
                selection["schedule"] = {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in asdict(schedule).items()
                }
        return {
            "seed": self.seed,
            "dataset": fingerprint_of(self._dataset_identity),
            "metric": selection,
        }


def _open_index(metrics: tuple[MetricConfig, ...], dataset: Any) -> DifficultyIndex | None:
    """The index of the one metric that selects samples, checked against the dataset."""
    selecting = [metric for metric in metrics if metric.selects_samples]
    if len(selecting) > 1:
        names = ", ".join(metric.name for metric in selecting)
        raise ConfigError(
            f"curriculum_metrics has {len(selecting)} metrics that select samples ({names}): "
            "one is supported, beside any number of single_cluster metrics"
        )
    if not selecting:
        return None
    assert selecting[0].index_path is not None
    index = DifficultyIndex.open(selecting[0].index_path)
    index.check_dataset(dataset)
    return index


def _occurrence_numbers(values: Int64Array) -> Int64Array:
    """How often each element's value stands before it.

    Example:
        >>> _occurrence_numbers(np.array([3, 1, 3, 3, 1])).tolist()
        [0, 0, 1, 2, 1]
    """
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    group_starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    lengths = np.diff(np.append(group_starts, len(values)))
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.arange(len(values)) - np.repeat(group_starts, lengths)
    return numbers
