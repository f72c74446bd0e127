"""The curriculum sampler: global batches as a pure function of (seed, state), without collectives.

Every rank computes the same global batch and takes its own rows. The state is the number of steps
done and one position for each cluster admitted so far, plain integers; nothing is shuffled in memory.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.config import DataEfficiencyConfig
from data_efficiency.dataset_identity import describe_dataset, fingerprint_of
from data_efficiency.differences import differing_fields
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.admission import MetricPool
from data_efficiency.sampling.blend import Blend, blend_of
from data_efficiency.sampling.bucketed_rows import BucketedRows
from data_efficiency.sampling.clusters import describe_pool
from data_efficiency.sampling.draw import draw_places
from data_efficiency.sampling.drawn_clusters import DrawnClusters, make_clusters
from data_efficiency.sampling.feedback import FeedbackClusters
from data_efficiency.sampling.parts import Parts
from data_efficiency.sampling.played_order import PlayedOrder
from data_efficiency.sampling.random_rank import random_rank
from data_efficiency.sampling.rank_rows import RankRows
from data_efficiency.sampling.row_length import closed_by_rows
from data_efficiency.sampling.sampler_state import GlobalBatch, SamplerIdentity, SamplerState
from data_efficiency.sampling.selection_index import open_index

Int64Array = NDArray[np.int64]


class CurriculumSampler(RankRows):
    """Draws the samples of each step; also a `batch_sampler` for a plain PyTorch DataLoader.

    As a batch sampler it yields this rank's micro-batches as lists of sample numbers. For accelerate,
    whose `prepare` shards a loader itself, it is made without ranks.

    Args:
        dataset: anything with a length; its identity is checked against the difficulty indexes. Its
            parts are drawn by weight if it has `part_sizes` and `part_weights`, one a step if `part_lengths`.
        config: the `data_efficiency` section; None samples uniformly.
        micro_batch_size: rows of one forward pass on one rank.
        gradient_accumulation_steps: micro-batches of a step on one rank, where `batch_size` does not say it.
        drop_last: leave out the last global batch if the dataset's passes do not fill it; otherwise
            it is filled up from the next pass. Batches are always whole.

    Raises:
        ConfigError: if the dataset has no length, or a step no whole number of micro-batches.
        ValueError: if a difficulty index belongs to another dataset, the first step's pool is empty
            (custom schedules: at the first batch), or there is not one batch to draw.
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
        config = closed_by_rows(config or DataEfficiencyConfig(), dataset)
        super().__init__(
            config,
            micro_batch_size=micro_batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            data_parallel_rank=data_parallel_rank,
            data_parallel_size=data_parallel_size,
        )
        self.config = config
        """Closed by the length of the rows, and with the custom schedules, once they are set."""
        self.seed = config.seed
        num_samples = _num_samples(dataset)
        self.dataset_identity = describe_dataset(dataset)
        """What the dataset says it is, plain JSON data."""
        if num_samples == 0:
            raise ValueError("the dataset is empty: there is nothing to sample")
        total = num_samples * config.num_epochs
        self.num_steps = self.steps_in(total, drop_last=drop_last)
        if self.num_steps == 0:
            raise ValueError(
                f"drop_last leaves no batch: {num_samples} samples x num_epochs "
                f"({config.num_epochs}) are fewer than a global batch ({self.global_batch_size})"
            )
        self.steps_per_pass = num_samples // self.global_batch_size
        """Steps of one pass over as many samples as the dataset has, each of one row."""
        if not drop_last and num_samples % self.global_batch_size:
            self.steps_per_pass += 1
        self.num_samples = num_samples
        """Of the dataset."""
        folder = config.data_cluster_path
        self._cluster_folder = None if folder is None else Path(folder)
        self._indexes = {
            selection.name: open_index(selection, dataset) for selection in config.selections
        }
        self._schedules = config.schedules
        self._parts: Parts | None = blend_of(dataset, config.mix)
        if config.length_buckets is not None:
            self._parts = BucketedRows(buckets=config.length_buckets, step_sizes=self._sizes)
        self._clusters = self._make_clusters()
        self.state = SamplerState()
        self._has_drawn = False
        self._saved_pool: tuple[int, int] | None = None
        if not any(selection.schedule.takes_function for selection in config.selections):
            self._clusters.boundaries(1)

    def __len__(self) -> int:
        """Micro-batches of this rank from the beginning to the end."""
        return self.micro_batches_before(self.num_steps + 1)

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's micro-batches from the present state on, as lists of sample numbers.

        Raises:
            ConfigError: if accelerate shards them once more, rows are made of several samples, or the batch size changes.
        """
        if self.config.token_superposition is not None:
            raise ConfigError(
                "token_superposition is enabled, which a sampler alone cannot carry out: read by "
                "CurriculumDataLoader, or switch it off"
            )
        if self.config.batch_size is not None:
            raise ConfigError(
                "data_sampling.batch_size changes the number of micro-batches of a step, and lists of numbers do not tell "
                "where a step ends: read by CurriculumDataLoader, whose steps() do, or remove it"
            )
        if self.data_parallel_size > 1:
            _refuse_second_sharding(sys._getframe())
        while self.state.step < self.num_steps:
            batch = self.next_global_batch()
            for number in range(self.num_micro_batches(batch.step)):
                yield batch.samples[self.micro_batch_samples(number, batch.step)].tolist()

    def difficulties(self, step: int) -> dict[str, int]:
        """What each metric accepts at `step`, counted from 1, as `GlobalBatch.difficulties`.

        Where an order is played, of a run whose batches were all as large as those of now.
        """
        found = self._scheduled(step)
        if self.played_order is None:
            return found
        drawn = self.samples_before(step)
        parts = [drawn] if self._parts is None else self._parts.targets(drawn)
        return found | self._played_rank(np.array(parts).astype(np.int64))

    def _scheduled(self, step: int) -> dict[str, int]:
        return {name: schedule.difficulty(step) for name, schedule in self._schedules.items()}

    def pool_size(self, step: int) -> int:
        """Samples that may be drawn at `step`, counted from 1."""
        starts = self._clusters.boundaries(step)
        return int(starts[-1] - starts[self._clusters.num_retired(step)])

    def pool_growth(self, until_step: int) -> tuple[Int64Array, Int64Array]:
        """The steps up to `until_step` >= 1 at which the pool changes, and its sizes from each on."""
        steps = self._clusters.change_steps(until_step)
        sizes = [self.pool_size(step) for step in steps.tolist()]
        return steps, np.array(sizes, np.int64)

    def next_global_batch(self) -> GlobalBatch:
        """The next step's samples; the state moves on by one step.

        Raises:
            ValueError: if no sample is admitted, or the clusters are not those of a loaded state.
        """
        step = self.state.step + 1
        self._has_drawn = True
        self._check_saved_pool()
        pool_size, positions = self.pool_size(step), self.state.positions
        if self.feedback is not None:
            positions = self.feedback.carried(step, positions)
        draw = draw_places(
            self.seed,
            step,
            self._clusters.boundaries(step),
            positions,
            self._sizes.samples(step),
            self._clusters.chooser(step),
            self._clusters.arranger(step),
        )
        difficulties = self._scheduled(step) | self._played_rank(self.state.positions)
        self.state = SamplerState(step=step, positions=draw.positions)
        return GlobalBatch(
            step=step,
            samples=self._samples_at(draw.places),
            visits=draw.visits,
            difficulties=difficulties,
            pool_size=pool_size,
            part_epochs=self._part_epochs(draw.positions),
        )

    @property
    def feedback(self) -> FeedbackClusters | None:
        """What draws by the values that were observed; None where samples do not follow any."""
        return self._clusters if isinstance(self._clusters, FeedbackClusters) else None

    def observe(self, step: int, samples: Int64Array, values: Any) -> None:
        """Take what the run found of a finished step's samples, such as their losses; the same on every rank.

        Args:
            step: counted from 1, each in turn; later batches depend on it after the declared delay.
            samples: int64 [samples], as in its `GlobalBatch`.
            values: [samples]; what is no finite number is passed over.

        Raises:
            ValueError: for another step or other samples, or if the configuration has no feedback.
        """
        if self.feedback is None:
            raise ValueError("nothing follows what is observed: add data_sampling.feedback")
        self.feedback.observe(step, samples, values)

    @property
    def played_order(self) -> PlayedOrder | None:
        """The order that is played; None where no metric sorts."""
        return self._clusters if isinstance(self._clusters, PlayedOrder) else None

    def _played_rank(self, positions: Int64Array) -> dict[str, int]:
        """The first metric that sorts, and how far up the sorted samples the next draws are."""
        played = self.played_order
        if played is None:
            return {}
        return {self.config.selections[0].name: played.percent_at(positions)}

    def _part_epochs(self, positions: Int64Array) -> tuple[float, ...] | None:
        if self._parts is None:
            return None
        sizes = np.array(self._parts.sizes)
        drawn = np.bincount(self._clusters.parts[: len(positions)], positions, len(sizes))
        return tuple((drawn / np.maximum(1, sizes)).tolist())

    def _samples_at(self, places: Int64Array) -> Int64Array:
        samples: Int64Array = self._clusters.samples_at(places)
        if not self.config.random_rank:
            return samples
        sizes = (self.num_samples,) if self._parts is None else self._parts.sizes
        return random_rank(samples, self.seed, sizes)

    def set_custom_schedules(self, functions: Mapping[str, Callable[[int], int]]) -> None:
        """Give the metrics whose `schedule_type` is custom their functions of the step.

        Raises:
            ValueError: for an unknown metric, one with another schedule type, or after step 1.
        """
        if self._has_drawn:
            raise ValueError("custom schedules must be set before the first batch")
        self.config = self.config.with_custom_schedules(functions)
        self._schedules = self.config.schedules
        self._clusters = self._make_clusters()

    def state_dict(self, state: SamplerState | None = None) -> dict[str, Any]:
        """The present (or given) state as plain JSON data, with what it depends on."""
        state, more = state or self.state, {}
        if self.feedback is not None:
            if self.feedback.observed_step != state.step:
                raise ValueError(
                    f"the state is whole once a step's values were observed: steps {state.step} are done, and those of "
                    f"{self.feedback.observed_step} were"
                )
            more["feedback"] = self.feedback.state_dict()
        return self._state_dict(state) | more

    def _state_dict(self, state: SamplerState) -> dict[str, Any]:
        has_pool = state.step > 0 and self.feedback is None
        return {
            "step": state.step,
            "positions": state.positions.tolist(),
            "pool_size": self.pool_size(state.step) if has_pool else 0,
            "depends_on": asdict(self.identity()),
        }

    def state_at(self, step: int) -> dict[str, Any]:
        """The state after `step` steps that drew nothing, as plain JSON data.

        For a run that goes on with other data: the schedules stand at the step, and every cluster is
        passed through from its beginning.
        """
        unobserved = {} if self.feedback is None else {"feedback": {"observed_step": step}}
        return self._state_dict(SamplerState(step=step)) | unobserved

    def identity(self) -> SamplerIdentity:
        """What a run and the one that continues it must agree on."""
        control: dict[str, Any] = {"random_rank": True} if self.config.random_rank else {}
        if self.config.order is not None:
            control["order"] = self.config.order.section()
        return SamplerIdentity(
            seed=self.seed,
            dataset=fingerprint_of(self.dataset_identity),
            metrics={
                pool.metric.name: {**describe_pool(pool), **control} for pool in self._pools()
            },
            part_weights=self._parts.identity() if isinstance(self._parts, Blend) else None,
            length_buckets=None
            if self.config.length_buckets is None
            else self.config.length_buckets.section(),
            feedback=None if self.config.feedback is None else self.config.feedback.section(),
        )

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """One text for each entry of the identity that a saved state does not share."""
        return differing_fields(saved["depends_on"], asdict(self.identity()))

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes to a saved state; the ranks and the batch size may have changed.

        Raises:
            ValueError: if seed, dataset or selecting metrics differ from those of the state. What a
                custom function gave is compared at the next batch, when the function must be set.
        """
        differences = self.differences(saved)
        if differences:
            raise ValueError(f"the saved sampler state is of another run: {'; '.join(differences)}")
        self.state = SamplerState(
            step=int(saved["step"]), positions=np.array(saved["positions"], np.int64)
        )
        if self.feedback is not None:
            self.feedback.load_state_dict(saved["feedback"])
        else:
            self._saved_pool = (self.state.step, int(saved["pool_size"]))

    def _check_saved_pool(self) -> None:
        """Raise ValueError unless the pool is the one that a loaded state was saved with."""
        if self._saved_pool is None:
            return
        (step, size), self._saved_pool = self._saved_pool, None
        if step and self.pool_size(step) != size:
            raise ValueError(
                f"the saved sampler state had {size} samples to draw from at step {step}, now there "
                f"are {self.pool_size(step)}: set the custom schedules that the saved run had"
            )

    def _pools(self) -> list[MetricPool]:
        """One for each metric that selects samples, with its present schedule."""
        return [
            MetricPool(selection, self._indexes[selection.name])
            for selection in self.config.selections
        ]

    def _make_clusters(self) -> DrawnClusters:
        return make_clusters(
            self.num_samples,
            self._pools(),
            order=self.config.order,
            feedback=self.config.feedback,
            parts=self._parts,
            folder=self._cluster_folder,
        )


def _num_samples(dataset: Any) -> int:
    """The dataset's length."""
    try:
        return len(dataset)
    except TypeError:
        raise ConfigError(
            f"the training dataset ({type(dataset).__name__}) has no length: samples are drawn by number, "
            "so give one with __len__ and __getitem__; read a stream into a list or a file first"
        ) from None


def _refuse_second_sharding(frame: FrameType | None) -> None:
    """Raise ConfigError if one of the callers is what accelerate's `prepare` makes of a loader.

    Those give each rank a part of what they are given. A generator may stand between them and the sampler,
    so nothing but the callers tells.
    """
    while frame is not None:
        caller = type(frame.f_locals.get("self")).__name__
        if caller in ("BatchSamplerShard", "DataLoaderDispatcher"):
            raise ConfigError(
                "the sampler yields the rows of one rank, and accelerate would take a part of them for that "
                "rank: do not prepare the loader, or make the sampler without data_parallel_rank and "
                "data_parallel_size"
            )
        frame = frame.f_back
