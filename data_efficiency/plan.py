"""What a configuration will do at each step, known before a single step is run.

Difficulties, pools, shapes and counts come from the functions that training itself uses, so a plan
and the log of the run say the same. Every position is taken to have a label in the loss, and samples
to be as long as the sequence; what depends on the samples' content (padding) cannot be planned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.accounting import (
    Counters,
    ModelShape,
    StepShape,
    layer_tokens,
    training_flops,
)
from data_efficiency.config import Config, MetricConfig, load_config
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.routing.router import Router
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.sampling.sequence_length import shape_after

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The steps of a run; entry s - 1 of each array is step s, counted from 1."""

    config: Config
    model: ModelShape
    num_samples: int
    """Of the dataset."""
    whole: StepShape
    """A global batch as it is read."""
    difficulties: Mapping[str, Int64Array]
    """Metric name -> int64 [num_steps]: what its schedule accepts."""
    pool_sizes: Int64Array
    """int64 [num_steps]: samples that a step can draw."""
    sequence_lengths: Int64Array
    """int64 [num_steps]: positions of a row given to the model."""
    kept_lengths: Int64Array
    """int64 [num_steps]: positions of a row that a dropping layer sees."""
    kinds: Int64Array
    """int64 [num_steps]: which of `counts` a step adds."""
    counts: tuple[Counters, ...]
    """What one step of each kind adds to the counters."""

    @property
    def num_steps(self) -> int:
        """Planned steps."""
        return len(self.kinds)

    def column(self, counter: str) -> NDArray[Any]:
        """What each step adds to a field of `Counters`: Python integers, [num_steps]."""
        return np.array([getattr(one, counter) for one in self.counts], object)[self.kinds]

    def counters(self, step: int) -> Counters:
        """Totals up to the end of `step`, exact."""
        repeats = np.bincount(self.kinds[:step], minlength=len(self.counts)).tolist()
        return _total(self.counts, repeats)

    @property
    def baseline(self) -> Counters:
        """Totals of as many steps on whole samples, without dropping."""
        return _total([count_step(self.whole, self.whole, self.model)], [self.num_steps])


def plan_run(
    config: Any,
    *,
    model: ModelShape,
    sequence_length: int,
    num_steps: int,
    num_samples: int | None = None,
    data_parallel_size: int = 1,
) -> RunPlan:
    """The plan of a run.

    Args:
        config: the JSON file's path, its content, or the parsed configuration.
        model: what the number of operations depends on.
        sequence_length: positions of a sample, at least 1.
        num_steps: steps to plan, at least 1.
        num_samples: samples of the dataset; None reads their number, and the pools, from the
            difficulty indexes that the configuration names.
        data_parallel_size: ranks that share a global batch.

    Raises:
        ConfigError: for a configuration that is not understood or does not fit the model.
        ValueError: if the pools do not follow from what is given.
    """
    config = load_config(config)
    dropping = config.data_efficiency.random_ltd
    if dropping is not None and dropping.total_layer_num != model.num_layers:
        raise ConfigError(
            f"random_ltd.total_layer_num is {dropping.total_layer_num}, but the model has "
            f"{model.num_layers} layers"
        )
    router = None if dropping is None else Router(dropping)
    micro_batch_size, accumulation = config.batch_sizes(data_parallel_size)
    num_micro_batches = accumulation * data_parallel_size
    steps = range(1, num_steps + 1)
    difficulties = {
        metric.name: np.array([metric.schedule.difficulty(step) for step in steps], np.int64)
        for metric in config.data_efficiency.metrics
    }
    shapes = np.empty((num_steps, 3), np.int64)
    for place, step in enumerate(steps):
        accepted = {name: int(column[place]) for name, column in difficulties.items()}
        metrics = config.data_efficiency.metrics
        rows, length = shape_after(metrics, accepted, micro_batch_size, sequence_length)
        shapes[place] = rows * num_micro_batches, length, kept_at(router, step, length)
    num_samples, pool_sizes = _pools(config, num_samples, difficulties, num_steps)
    distinct, kinds = np.unique(shapes, axis=0, return_inverse=True)
    num_dropping = 0 if dropping is None else dropping.random_ltd_layer_num
    whole = StepShape(
        num_rows=micro_batch_size * num_micro_batches, sequence_length=sequence_length
    )
    return RunPlan(
        config=config,
        model=model,
        num_samples=num_samples,
        whole=whole,
        difficulties=difficulties,
        pool_sizes=pool_sizes,
        sequence_lengths=shapes[:, 1],
        kept_lengths=shapes[:, 2],
        kinds=kinds.reshape(-1),
        counts=tuple(
            count_step(
                StepShape(
                    num_rows=rows,
                    sequence_length=length,
                    num_dropping_layers=num_dropping,
                    kept_length=kept,
                ),
                whole,
                model,
            )
            for rows, length, kept in distinct.tolist()
        ),
    )


def kept_at(router: Router | None, step: int, length: int) -> int:
    """Positions of a row of `length` that a dropping layer sees at `step`, counted from 1.

    Token dropping goes by the steps finished, the curriculum by the step at hand.
    """
    return length if router is None else min(length, router.kept_length(step - 1, length))


def count_step(shape: StepShape, whole: StepShape, model: ModelShape) -> Counters:
    """What a step of one shape adds, `whole` being the shape of its samples as they are read."""
    corpus_tokens = shape.num_rows * shape.sequence_length
    return Counters(
        steps=1,
        consumed_samples=whole.num_rows,
        corpus_tokens=corpus_tokens,
        # However rows are cut, no label of a sample is in the loss twice.
        loss_tokens=min(corpus_tokens, whole.num_rows * whole.sequence_length),
        layer_tokens=layer_tokens(shape, model.num_layers),
        flops=training_flops(shape, model),
    )


def _total(counts: Sequence[Counters], repeats: Sequence[int]) -> Counters:
    """The sum of some counters, each taken so many times."""
    return Counters(
        **{
            field.name: sum(
                getattr(one, field.name) * times for one, times in zip(counts, repeats, strict=True)
            )
            for field in fields(Counters)
        }
    )


def _pools(
    config: Config, num_samples: int | None, difficulties: Mapping[str, Int64Array], num_steps: int
) -> tuple[int, Int64Array]:
    """Samples of the dataset, and those that each step can draw."""
    settings = config.data_efficiency
    selecting = [metric for metric in settings.metrics if metric.selects_samples]
    if num_samples is not None and not selecting:
        return num_samples, np.full(num_steps, num_samples, np.int64)
    if num_samples is not None:
        return num_samples, _pool_by_arithmetic(selecting, num_samples, difficulties)
    if not selecting:
        raise ValueError(
            "no metric selects samples, so no index tells how many there are: give num_samples"
        )
    assert selecting[0].index_path is not None
    dataset = _IndexedSamples(DifficultyIndex.open(selecting[0].index_path))
    sampler = CurriculumSampler(dataset, settings, micro_batch_size=1)
    sizes = [sampler.pool_size(step) for step in range(1, num_steps + 1)]
    return len(dataset), np.array(sizes, np.int64)


def _pool_by_arithmetic(
    selecting: Sequence[MetricConfig], num_samples: int, difficulties: Mapping[str, Int64Array]
) -> Int64Array:
    """Samples that each step can draw, where that follows from their number alone."""
    metric = selecting[0]
    if len(selecting) > 1 or metric.difficulty_type == "value":
        names = ", ".join(metric.name for metric in selecting)
        raise ValueError(
            f"which samples {names} select is known from their indexes: leave num_samples out to "
            "read them (a single metric by percentile is known without)"
        )
    highest = np.maximum.accumulate(difficulties[metric.name])
    per_part = num_samples // metric.max_difficulty
    return np.where(highest >= metric.max_difficulty, num_samples, per_part * highest)


class _IndexedSamples:
    """Stands for the dataset that an index was made from."""

    def __init__(self, index: DifficultyIndex) -> None:
        self.identity = index.dataset_identity
        self._num_samples = index.num_samples

    def __len__(self) -> int:
        return self._num_samples
