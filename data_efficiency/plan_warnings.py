"""What in a plan is probably not meant, in one sentence each."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_efficiency.accounting import TokenCounter
from data_efficiency.config import Selection
from data_efficiency.plan import RunPlan


@dataclass(frozen=True, kw_only=True)
class DecayEnd:
    """Where the learning rate reaches its minimum."""

    amount: float
    unit: Literal["steps", "samples"] | TokenCounter


def plan_warnings(plan: RunPlan, decay_end: DecayEnd | None = None) -> list[str]:
    """A sentence for each thing in a plan that is probably not meant; none where all is well.

    Args:
        decay_end: where the learning rate reaches its minimum; None: not before the last step.
    """
    return [
        *_about_pools(plan),
        *_about_feedback(plan),
        *_about_the_order(plan),
        *_about_the_buckets(plan),
        *_about_the_curriculum(plan),
        *_about_token_dropping(plan),
        *_about_layer_dropout(plan),
        *_about_the_learning_rate(plan, decay_end),
    ]


def _about_feedback(plan: RunPlan) -> list[str]:
    """Pools that nobody knows beforehand, and rankings that never come."""
    feedback = plan.config.data_efficiency.feedback
    if feedback is None:
        return []
    # The first round of which a value is known.
    first = -(-feedback.delay_steps // feedback.refresh_steps) * feedback.refresh_steps + 1
    if first > plan.num_steps:
        return [
            f"feedback never ranks: values are known from step {first} on, and the run has {plan.num_steps}; refresh "
            "more often, or with a smaller delay"
        ]
    return [
        f"which samples are drawn from step {first} on follows the run's losses: the pool is shown as all samples, the "
        "most that it can be; the log's pool_size says what it was"
    ]


def _about_pools(plan: RunPlan) -> list[str]:
    """Batches that cannot do without repeating samples, and data that ends before the steps do."""
    found = []
    steps = np.union1d(plan.pools[0], [stretch.first_step for stretch in plan.stretches])
    sizes = np.array([plan.pool_size(step) for step in steps.tolist()])
    # Rows of bags are of several samples each.
    drawn = np.array([plan.stretch_at(step).counts.consumed_samples for step in steps.tolist()])
    ends = np.append(steps[1:], plan.num_steps + 1)
    too_small = np.flatnonzero(sizes < drawn)
    if sizes[0] == 0:
        found.append("no sample can be drawn at step 1, so training would not start; start higher")
    elif len(too_small):
        found.append(
            f"pool too small for a batch: {(ends - steps)[too_small].sum()} of the first "
            f"{ends[too_small[-1]] - 1} steps draw {drawn[too_small].max()} samples from as few as "
            f"{sizes[too_small].min()}, so samples repeat within a batch; start at a higher "
            "difficulty"
        )
    passes = plan.config.data_efficiency.num_epochs
    wanted = plan.counters(plan.num_steps).consumed_samples
    if wanted > passes * plan.num_samples:
        found.append(
            f"the data ends first: {plan.num_steps} steps take {wanted} samples, but num_epochs "
            f"({passes}) x {plan.num_samples} samples are {passes * plan.num_samples}; raise num_epochs"
        )
    return found


def _about_the_order(plan: RunPlan) -> list[str]:
    """An order that the run does not come to the end of."""
    order = plan.config.data_efficiency.order
    if order is None:
        return []
    wanted = plan.counters(plan.num_steps).consumed_samples
    in_pass = order.pass_samples or plan.num_samples
    if wanted >= in_pass:
        return []
    return [
        f"the order is longer than training: a pass through it draws {in_pass} samples, and {plan.num_steps} steps "
        f"draw {wanted}; what comes last is never trained on: say pass_samples {wanted} in its order"
    ]


def _about_the_buckets(plan: RunPlan) -> list[str]:
    """Cycles that are not come to the end of, and rows that come again while others wait."""
    buckets, found = plan.config.data_efficiency.length_buckets, []
    if buckets is None:
        return []
    if buckets.pass_steps is not None and buckets.pass_steps > plan.num_steps:
        found.append(
            f"the pass of the length buckets is longer than training: it has {buckets.pass_steps} steps, of which "
            f"{plan.num_steps} are taken; what comes last in it is never trained on: say pass_steps {plan.num_steps}"
        )
    if buckets.sizes:
        per_row = [buckets.rows_in_place_of_one(one) for one in range(len(buckets.lengths))]
        drawn = plan.steps_of_buckets * per_row * plan.full_batch.num_rows
        passes = drawn / np.maximum(1, buckets.sizes)
        most, least = int(passes.argmax()), int(passes.argmin())
        if passes[most] >= 2 and passes[least] < 1:
            found.append(
                f"rows of {buckets.lengths[most]} tokens come {passes[most]:.1f} times, and of those of {buckets.lengths[least]} only "
                f"{passes[least]:.0%} are used: shares nearer to those of the data (token_shares natural) repeat less"
            )
    return found


def _about_the_curriculum(plan: RunPlan) -> list[str]:
    """Schedules that do not come to their end, and selections or lengths that cannot be as written."""
    settings, found = plan.config.data_efficiency, []
    metrics = {metric.name: metric for metric in (*settings.selections, *settings.length_plans)}
    for name, last in plan.difficulties(plan.num_steps).items():
        metric = metrics[name]
        if isinstance(metric, Selection) and metric.sorts:
            continue
        if last < metric.max_difficulty and metric.schedule.ends:
            found.append(
                f"curriculum longer than training: {name} is at {last} of "
                f"{metric.max_difficulty} at the last step ({plan.num_steps}); the harder part is "
                "never trained on"
            )
    for length in settings.length_plans:
        if not length.follows_schedule:
            found.append(
                f"{length.name} changes the batches in a way that depends on them "
                f"({length.action}): the plan counts them unchanged"
            )
        elif length.max_difficulty > plan.full_batch.sequence_length:
            found.append(
                f"{length.name} goes up to {length.max_difficulty}, but samples have "
                f"{plan.full_batch.sequence_length} positions: beyond that it changes nothing"
            )
    return found


def _about_token_dropping(plan: RunPlan) -> list[str]:
    """Dropping that is still on at the end, or never is."""
    if plan.config.data_efficiency.random_ltd is None:
        return []
    shapes = [stretch.shape for stretch in plan.stretches]
    kept, length = shapes[-1].dropped_sequence_length, shapes[-1].sequence_length
    if kept < length:
        return [
            f"random-LTD never ends: at the last step ({plan.num_steps}) its layers still keep {kept} "
            f"of {length} positions; let the last part of training see all of them"
        ]
    if all(shape.dropped_sequence_length == shape.sequence_length for shape in shapes):
        return ["random-LTD drops nothing: it never keeps fewer positions than rows have"]
    return []


def _about_layer_dropout(plan: RunPlan) -> list[str]:
    """Rows that still skip layers at the end, or never do."""
    if plan.config.data_efficiency.layer_dropout is None:
        return []
    if plan.stretches[-1].shape.skipped:
        return [
            f"layer dropout never ends: at the last step ({plan.num_steps}) rows still skip layers; let the last "
            "part of training have all of them"
        ]
    if not any(stretch.shape.skipped for stretch in plan.stretches):
        return [
            "layer dropout skips nothing: what it keeps of a group of rows is always rounded to all"
        ]
    return []


def _about_the_learning_rate(plan: RunPlan, decay_end: DecayEnd | None) -> list[str]:
    """A learning rate that is at its minimum while the curriculum still changes."""
    if decay_end is None:
        return []
    counter = {
        "steps": "steps",
        "samples": "consumed_samples",
        "corpus": "corpus_tokens",
        "loss": "loss_tokens",
        "effective": "layer_tokens",
    }[decay_end.unit]
    per_unit = plan.model.num_layers if decay_end.unit == "effective" else 1
    decayed = plan.step_that_fills(counter, decay_end.amount * per_unit)
    if decayed >= plan.last_change:
        return []
    return [
        f"the learning rate outruns the curriculum: it is at its minimum from step {decayed} on, but "
        f"what is trained on changes until step {plan.last_change}; decay more slowly, or end the "
        "curriculum earlier"
    ]
