"""What a whole run adds up to, in time that does not depend on its number of steps.

Shapes change only where a schedule does, so a run of millions of steps is a few hundred stretches of
equal steps. As in a plan, every position is taken to have a label and samples to be full.
"""

from collections.abc import Iterator
from dataclasses import fields

from data_efficiency.accounting import Counters, ModelShape, StepShape
from data_efficiency.config import Config, DataEfficiencyConfig, load_config
from data_efficiency.json_section import ConfigError
from data_efficiency.plan import count_step, kept_at
from data_efficiency.routing.router import Router
from data_efficiency.sampling.sequence_length import shape_after
from data_efficiency.schedule import CustomSchedule, DiscreteSchedule, Schedule, growth


def planned_totals(
    config: Config,
    *,
    model: ModelShape,
    sequence_length: int,
    num_steps: int | None = None,
    effective_tokens: int | None = None,
    data_parallel_size: int = 1,
) -> Counters:
    """Totals of a run that ends after `num_steps`, or at the step that fills `effective_tokens`.

    Args:
        config: the JSON file's path, its content, or the parsed configuration.
        model: what the number of operations depends on.
        sequence_length: positions of a sample.
        num_steps: steps of the run; this or `effective_tokens`.
        effective_tokens: budget of layer tokens divided by layers.
        data_parallel_size: ranks that share a global batch.

    Raises:
        ConfigError: for a configuration that is not understood, or a custom schedule of a length.
        ValueError: unless exactly one of the two ends is given.
    """
    if (num_steps is None) == (effective_tokens is None):
        raise ValueError("give num_steps or effective_tokens, one of them")
    config = load_config(config)
    micro_batch_size, accumulation = config.batch_sizes(data_parallel_size)
    num_micro_batches = accumulation * data_parallel_size
    whole = StepShape(
        num_rows=micro_batch_size * num_micro_batches, sequence_length=sequence_length
    )
    metrics, dropping = config.data_efficiency.metrics, config.data_efficiency.random_ltd
    router = None if dropping is None else Router(dropping)
    changes = sorted({1, *_changes(config.data_efficiency)})
    total = Counters()
    for start, end in zip(changes, [*changes[1:], None], strict=True):
        accepted = {
            metric.name: metric.schedule.difficulty(start)
            for metric in metrics
            if metric.sequence_length in ("truncate", "reshape")
        }
        rows, length = shape_after(metrics, accepted, micro_batch_size, sequence_length)
        shape = StepShape(
            num_rows=rows * num_micro_batches,
            sequence_length=length,
            num_dropping_layers=0 if dropping is None else dropping.random_ltd_layer_num,
            kept_length=kept_at(router, start, length),
        )
        step = count_step(shape, whole, model)
        if num_steps is not None:
            left = num_steps - total.steps
        else:
            assert effective_tokens is not None
            missing = effective_tokens * model.num_layers - total.layer_tokens
            left = -(-missing // step.layer_tokens)
        total = total.plus(_times(step, left if end is None else min(left, end - start)))
        if end is None or left <= end - start:
            break
    return total


def _changes(config: DataEfficiencyConfig) -> Iterator[int]:
    """Steps, counted from 1, whose shape may differ from that of the step before."""
    for metric in config.metrics:
        if metric.sequence_length in ("truncate", "reshape"):
            yield from _schedule_changes(metric.schedule, metric.name, first=1)
    if config.random_ltd is not None:
        for finished in _schedule_changes(config.random_ltd.schedule, "random_ltd", first=0):
            yield finished + 1


def _schedule_changes(schedule: Schedule, name: str, *, first: int) -> Iterator[int]:
    if isinstance(schedule, CustomSchedule):
        raise ConfigError(
            f"the schedule of {name} is your own function, whose changes are known only by running "
            "it: plan a number of steps with plan_run instead"
        )
    if isinstance(schedule, DiscreteSchedule):
        yield from (last_step + 1 for last_step in schedule.max_steps)
        return
    for step, _ in growth(schedule, first - 1, None, None):
        yield step


def _times(counters: Counters, number: int) -> Counters:
    return Counters(**{f.name: getattr(counters, f.name) * number for f in fields(counters)})
