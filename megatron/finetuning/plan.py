"""What a finetuning run will count, step by step, before anything runs."""

from typing import Any

import numpy as np

from data_efficiency import (
    Counters,
    RunPlan,
    StepShape,
    actual_seq_length,
    load_config,
    plan_run,
)
from megatron.config import TextRunConfig
from megatron.finetuning.section import (
    AnyFinetuning,
    RunSize,
    budget_of,
    planned_json,
    planned_size,
)

Totals = dict[str, np.ndarray]
"""Count -> int64 [steps]: its total after each."""


_MOST_STEPS = 10_000_000
"""That are planned one by one: far above any finetuning."""


def plan_finetuning(config: AnyFinetuning) -> tuple[RunPlan, Counters, Totals]:
    """The plan of a run, its totals at the end of the budget, and its counts up to there.

    Raises:
        ValueError: if the run file does not say the size of the run, or the budget has no end.
    """
    size = planned_size(config)
    content = load_config(planned_json(config))
    plan, counts = _plan_until(content, budget_of(config.training, size), size)
    return plan, plan.counters(len(counts["steps"])), counts


def _plan_until(content: Any, budget: tuple[str, int], size: RunSize) -> tuple[RunPlan, Totals]:
    """The plan of a run, and its counts up to the step that uses up the budget."""
    unit, amount = budget
    num_steps = 64
    while num_steps < _MOST_STEPS:
        plan = plan_run(
            content,
            model=size.shape,
            sequence_length=size.length,
            num_steps=num_steps,
            num_samples=size.num_samples,
        )
        steps = [_added(each.shape, each.counts, size.num_layers) for each in plan.stretches]
        lengths = [stretch.num_steps for stretch in plan.stretches]
        counts = {
            name: np.cumsum(np.repeat([added[name] for added in steps], lengths))
            for name in steps[0]
        }
        if counts[unit][-1] >= amount:
            end = int(np.argmax(counts[unit] >= amount)) + 1
            return plan, {name: column[:end] for name, column in counts.items()}
        num_steps *= 4
    raise ValueError(
        f"the budget of {amount:g} {unit} takes more than {_MOST_STEPS:,} steps: lower --epochs"
    )


def _added(shape: StepShape, counts: Counters, num_layers: int) -> dict[str, int]:
    """What one step of a stretch adds to each count."""
    return {
        "steps": 1,
        "corpus_tokens": counts.corpus_tokens,
        "layer_tokens": counts.layer_tokens,
        "consumed_token": shape.num_rows * actual_seq_length(shape, num_layers),
    }


def format_finetuning_plan(config: AnyFinetuning) -> str:
    """The published accounting of a run, and what it leaves out."""
    if isinstance(config, TextRunConfig):
        return _format_text_plan(config)
    plan, _, counts = plan_finetuning(config)
    size, layer = planned_size(config), int(counts["layer_tokens"][-1])
    steps, rows = len(counts["steps"]), plan.full_batch.num_rows
    whole = steps * rows * size.length * size.num_layers
    lines = [
        f"{steps} steps of {rows} images ({steps * rows / size.num_samples:.2f} passes): "
        f"layer_token {layer}, without dropping {whole}, {100 * (1 - layer / whole):.1f} % saved"
    ]
    counted = config.data.counted_batch
    if counted is not None:
        lines.append(
            f"published accounting, {counted} images a step: layer_token {layer * counted // rows}"
        )
    kept = [plan.stretch_at(step).shape.kept_length for step in (1, steps)]
    return "\n".join([*lines, f"kept length {kept[0]} at step 1, {kept[1]} last"])


def _format_text_plan(config: TextRunConfig) -> str:
    plan, _, counts = plan_finetuning(config)
    size, (unit, amount) = planned_size(config), budget_of(config.training, planned_size(config))
    steps, corpus, layer, consumed = (int(column[-1]) for column in counts.values())
    lines = [
        f"budget: {amount} {unit}, {config.training.epochs:g} epochs of {size.num_samples} x {size.length}"
    ]
    in_step = plan.config.batch_sizes(1)[1]
    if unit == "consumed_token":
        # The published run looks at its budget after every micro-batch.
        before = int(counts[unit][-2]) if steps > 1 else 0
        tokens = (consumed - before) // in_step
        done = -(-(amount - before) // tokens)
        lines.append(
            f"published accounting: step {(steps - 1) * in_step + done} "
            f"consumed_token {before + done * tokens} (micro-batches; may stop inside a global batch)"
        )
    whole = size.num_layers * corpus
    first, last = (plan.stretch_at(step).shape for step in (1, steps))
    lines += [
        f"this program: step {steps * in_step} consumed_token {consumed}, "
        f"{steps} optimizer steps, whole global batches",
        f"beside it: corpus tokens {corpus} ({corpus / (size.num_samples * size.length):.2f} passes), layer "
        f"tokens {layer}, {100 * (1 - layer / whole):.1f} % saved of the {whole} that as many corpus "
        "tokens take without dropping",
        f"kept length {first.kept_length} at step 1, {last.kept_length} at the last; row length "
        f"{first.sequence_length} and {last.sequence_length}",
    ]
    return "\n".join(lines)
