"""What in a plan is probably not meant, in one sentence each."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_efficiency.accounting import TokenCounter
from data_efficiency.plan import RunPlan
from data_efficiency.schedule import CustomSchedule


@dataclass(frozen=True, kw_only=True)
class DecayEnd:
    """Where the learning rate reaches its minimum."""

    amount: float
    unit: Literal["steps", "samples"] | TokenCounter


def plan_warnings(plan: RunPlan, decay_end: DecayEnd | None = None) -> list[str]:
    """A sentence for each thing in a plan that is probably not meant; none where all is well.

    Args:
        plan: the run.
        decay_end: where the learning rate reaches its minimum; None: not before the last step.
    """
    return [
        *_about_pools(plan),
        *_about_metrics(plan),
        *_about_token_dropping(plan),
        *_about_the_learning_rate(plan, decay_end),
    ]


def _about_pools(plan: RunPlan) -> list[str]:
    """Batches that cannot do without repeating samples, and data that ends before the steps do."""
    found = []
    too_small = np.flatnonzero(plan.pool_sizes < plan.whole.num_rows)
    if plan.pool_sizes[0] == 0:
        found.append("no sample can be drawn at step 1, so training would not start; start higher")
    elif len(too_small):
        found.append(
            f"pool too small for a batch: {len(too_small)} of the first {too_small[-1] + 1} steps "
            f"draw {plan.whole.num_rows} samples from as few as "
            f"{plan.pool_sizes[too_small].min()}, so samples repeat within a batch; start at a "
            "higher difficulty"
        )
    passes = plan.config.data_efficiency.num_epochs
    wanted = plan.num_steps * plan.whole.num_rows
    if wanted > passes * plan.num_samples:
        found.append(
            f"the data ends first: {plan.num_steps} steps take {wanted} samples, but num_epochs "
            f"({passes}) x {plan.num_samples} samples are {passes * plan.num_samples}; raise num_epochs"
        )
    return found


def _about_metrics(plan: RunPlan) -> list[str]:
    """Curricula that do not end, lengths that samples do not have, and what cannot be planned."""
    found = []
    for metric in plan.config.data_efficiency.metrics:
        last = int(plan.difficulties[metric.name][-1])
        if last < metric.max_difficulty and not isinstance(metric.schedule, CustomSchedule):
            found.append(
                f"curriculum longer than training: {metric.name} is at {last} of "
                f"{metric.max_difficulty} at the last step ({plan.num_steps}); the harder part is "
                "never trained on"
            )
        changes_length = metric.sequence_length in ("truncate", "reshape")
        if changes_length and metric.max_difficulty > plan.whole.sequence_length:
            found.append(
                f"{metric.name} goes up to {metric.max_difficulty}, but samples have "
                f"{plan.whole.sequence_length} positions: beyond that it changes nothing"
            )
        if metric.sequence_length in ("user", "trim_padding"):
            found.append(
                f"{metric.name} changes the batches in a way that depends on them "
                f"({metric.sequence_length}): the plan counts them unchanged"
            )
    return found


def _about_token_dropping(plan: RunPlan) -> list[str]:
    """Dropping that is still on at the end, or never is."""
    if plan.config.data_efficiency.random_ltd is None:
        return []
    kept, length = int(plan.kept_lengths[-1]), int(plan.sequence_lengths[-1])
    if kept < length:
        return [
            f"random-LTD never ends: at the last step ({plan.num_steps}) its layers still keep {kept} "
            f"of {length} positions; let the last part of training see all of them"
        ]
    if np.array_equal(plan.kept_lengths, plan.sequence_lengths):
        return ["random-LTD drops nothing: it never keeps fewer positions than rows have"]
    return []


def _about_the_learning_rate(plan: RunPlan, decay_end: DecayEnd | None) -> list[str]:
    """A learning rate that is at its minimum while the curriculum still changes."""
    if decay_end is None:
        return []
    columns = {
        "steps": "steps",
        "samples": "consumed_samples",
        "corpus": "corpus_tokens",
        "loss": "loss_tokens",
        "effective": "layer_tokens",
    }
    amounts = plan.column(columns[decay_end.unit]).astype(np.float64)
    if decay_end.unit == "effective":
        amounts /= plan.model.num_layers
    decayed = int(np.searchsorted(amounts.cumsum(), decay_end.amount)) + 1
    last_change = _last_change(plan)
    if decayed >= last_change:
        return []
    return [
        f"the learning rate outruns the curriculum: it is at its minimum from step {decayed} on, but "
        f"what is trained on changes until step {last_change}; decay more slowly, or end the "
        "curriculum earlier"
    ]


def _last_change(plan: RunPlan) -> int:
    """The last step at which pool, length or kept length differ from the step before; 1 if none."""
    columns: list[NDArray[np.int64]] = [plan.pool_sizes, plan.sequence_lengths, plan.kept_lengths]
    changes = [np.flatnonzero(np.diff(column)) for column in columns]
    return max((int(places[-1]) + 2 for places in changes if len(places)), default=1)
