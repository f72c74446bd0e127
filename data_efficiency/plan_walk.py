"""One walk over a run's steps, from change to change: what each gives the model, and what it adds to the counters."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, fields, replace

from data_efficiency.accounting import Counters, ModelShape, StepShape, layer_tokens, training_flops
from data_efficiency.config import Config, OpenRandomLTD
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sequence_length import shape_after, windows_of
from data_efficiency.sampling.step_sizes import StepSizes


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Steps that are alike."""

    first_step: int
    """Counted from 1."""
    num_steps: int
    shape: StepShape
    """What one step gives the model."""
    counts: Counters
    """What one step adds to the counters."""
    num_micro_batches: int
    """Of one step, of all processes together."""


class Walk:
    """A run's steps from change to change.

    Raises:
        ConfigError: for a configuration that does not fit the model or the rows.
    """

    def __init__(
        self, config: Config, model: ModelShape, sequence_length: int, data_parallel_size: int
    ) -> None:
        config = _closed(config, model, sequence_length)
        self.config, self._model = config, model
        self._routing = config.data_efficiency.routing(model.num_layers)
        self._superposition = config.data_efficiency.token_superposition
        plans = config.data_efficiency.length_plans
        self._plans = [plan for plan in plans if plan.follows_schedule]
        self._micro_batch_size, accumulation = config.batch_sizes(data_parallel_size)
        self.full_batch = StepShape(
            num_rows=self._micro_batch_size * accumulation * data_parallel_size,
            sequence_length=sequence_length,
        )
        together = self._micro_batch_size * data_parallel_size
        buckets = config.data_efficiency.length_buckets
        if buckets is not None and buckets.lengths[-1:] != (sequence_length,):
            raise ConfigError(
                f"data_sampling.length_buckets.lengths is {list(buckets.lengths)}, but samples have up to {sequence_length} "
                "tokens: the last one must be that"
            )
        self._has_buckets = buckets is not None
        self._found: dict[Hashable, tuple[StepShape, Counters]] = {}
        """What steps of a kind give and add: in a run with buckets the same few come again and again."""
        self._sizes = StepSizes.of(config.data_efficiency, self.full_batch.num_rows, together)

    def stretches(self, num_steps: int | None) -> Iterator[Stretch]:
        """Stretches up to a step; neighbours may be alike. None: the last one has no end."""
        last = 2**62 if num_steps is None else num_steps
        step: int | None = 1
        while step is not None and step <= last:
            following = self._next_change(step)
            end = last + 1 if following is None else min(following, last + 1)
            shape, counts = self._step_at(step)
            yield Stretch(
                first_step=step,
                num_steps=end - step,
                shape=shape,
                counts=counts,
                num_micro_batches=self._num_micro_batches(step),
            )
            step = following

    def _step_at(self, step: int) -> tuple[StepShape, Counters]:
        """What a step gives the model, and what it adds."""
        # Of routes nobody asks what makes two steps alike.
        kind: Hashable = step
        if self._routing is None and self._superposition is None:
            accepted = (plan.schedule.difficulty(step) for plan in self._plans)
            kind = (*accepted, None, self._sizes.rows(step), self._sizes.per_row(step))
        if kind not in self._found:
            shape = self._shape_at(step)
            batch = replace(self.full_batch, num_rows=self._sizes.samples(step))
            found = shape, count_step(shape, batch, self._model)
            if kind == step:
                return found
            self._found[kind] = found
        return self._found[kind]

    def _shape_at(self, step: int) -> StepShape:
        accepted = {plan.name: plan.schedule.difficulty(step) for plan in self._plans}
        whole = self.full_batch.sequence_length
        if self._has_buckets:
            whole //= self._sizes.per_row(step)
        rows, length = shape_after(self._plans, accepted, self._micro_batch_size, whole)
        windows = windows_of(self._plans, accepted)
        window = min(windows.values(), default=length)
        rows *= 1 if self._superposition else self._sizes.per_row(step)
        num_rows = rows * self._num_micro_batches(step)
        shape = StepShape(num_rows=num_rows, sequence_length=length, kept_length=length)
        if self._routing is not None:
            # Routes go by the steps finished, the curriculum by the step at hand.
            self._routing.refuse_part_of_a_group(step - 1, rows)
            shape = self._routing.shape(step - 1, num_rows, length)
        return replace(
            shape,
            attention_window=window if window < length else None,
            window_slides="sliding_window" in windows and window < length,
            tokens_per_position=1
            if self._superposition is None
            else self._superposition.tokens_per_position(step - 1),
        )

    def _num_micro_batches(self, step: int) -> int:
        return self._sizes.rows(step) // self._micro_batch_size

    def _next_change(self, step: int) -> int | None:
        """The first step after `step` whose shape can be another one."""
        changes = [plan.schedule.next_change(step) for plan in self._plans]
        changes.append(self._sizes.next_change(step))
        if self._routing is not None:
            finished = self._routing.next_change(step - 1)
            changes.append(None if finished is None else finished + 1)
        return min((change for change in changes if change is not None), default=None)


def _closed(config: Config, model: ModelShape, sequence_length: int) -> Config:
    """The configuration with what model and rows say of it."""
    section = config.data_efficiency.with_length(sequence_length)
    if sequence_length % section.row_shares:
        raise ConfigError(
            f"samples have {sequence_length} tokens: {section.row_shares} processes cannot share them evenly "
            "(tensor_parallel.autotp_size)"
        )
    dropping = section.random_ltd
    if isinstance(dropping, OpenRandomLTD):
        dropping = dropping.closed(num_layers=model.num_layers, mask_name=None)
    return replace(config, data_efficiency=replace(section, random_ltd=dropping))


def count_step(shape: StepShape, full_batch: StepShape, model: ModelShape) -> Counters:
    """What a step of one shape adds, `full_batch` being the shape of its samples as they are read."""
    num_positions = shape.num_rows * shape.sequence_length
    return Counters(
        steps=1,
        consumed_samples=full_batch.num_rows,
        corpus_tokens=num_positions * shape.tokens_per_position,
        # However rows are cut, no label of a sample is in the loss twice.
        loss_tokens=min(num_positions, full_batch.num_rows * full_batch.sequence_length),
        layer_tokens=layer_tokens(shape, model.num_layers),
        flops=training_flops(shape, model),
    )


def times(counters: Counters, number: int) -> Counters:
    """What so many alike steps add."""
    return Counters(**{f.name: getattr(counters, f.name) * number for f in fields(counters)})
