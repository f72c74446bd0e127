"""What a recipe will count, step by step, before anything runs."""

from typing import Any

import numpy as np

from data_efficiency import Counters, RunPlan, StepShape, actual_seq_length, plan_run
from examples_deepspeed.data_efficiency.finetuning.run import layers_alone

Totals = dict[str, np.ndarray]
"""Count -> int64 [steps]: its total after each."""


_MOST_STEPS = 10_000_000
"""That are planned one by one: far above any finetuning."""


def plan_until(
    config: Any, budget: tuple[str, int], *, num_layers: int, num_samples: int, length: int
) -> tuple[RunPlan, Totals]:
    """The plan of a run, and its counts up to the step that uses up the budget."""
    unit, amount = budget
    num_steps = 64
    while num_steps < _MOST_STEPS:
        plan = plan_run(
            config,
            model=layers_alone(num_layers),
            sequence_length=length,
            num_steps=num_steps,
            num_samples=num_samples,
        )
        steps = [_added(stretch.shape, stretch.counts, num_layers) for stretch in plan.stretches]
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


def print_text_plan(
    config: Any, *, num_layers: int, num_samples: int, length: int, epochs: float
) -> None:
    """Print the published accounting of a run on text, and what it leaves out."""
    amount = round(epochs * num_samples * length)
    plan, counts = plan_until(
        config,
        ("consumed_token", amount),
        num_layers=num_layers,
        num_samples=num_samples,
        length=length,
    )
    steps, corpus, layer, consumed = (int(column[-1]) for column in counts.values())
    before = int(counts["consumed_token"][-2]) if steps > 1 else 0
    # The published run looks at its budget after every micro-batch.
    in_step = config.batch_sizes(1)[1]
    tokens = (consumed - before) // in_step
    done = -(-(amount - before) // tokens)
    print(f"budget: {amount} consumed_token, {epochs:g} epochs of {num_samples} x {length}")
    print(
        f"published accounting: step {(steps - 1) * in_step + done} "
        f"consumed_token {before + done * tokens} (micro-batches; may stop inside a global batch)"
    )
    print(
        f"this program: step {steps * in_step} consumed_token {consumed}, "
        f"{steps} optimizer steps, whole global batches"
    )
    whole = num_layers * corpus
    first, last = (plan.stretch_at(step).shape for step in (1, steps))
    print(
        f"beside it: corpus tokens {corpus} ({corpus / (num_samples * length):.2f} passes), layer "
        f"tokens {layer}, {100 * (1 - layer / whole):.1f} % saved of the {whole} that as many corpus "
        "tokens take without dropping"
    )
    print(
        f"kept length {first.kept_length} at step 1, {last.kept_length} at the last; row length "
        f"{first.sequence_length} and {last.sequence_length}"
    )


def print_image_plan(
    config: Any, budget: tuple[str, int], size: dict[str, int], counted_batch: int | None
) -> None:
    """Print the accounting of a run on images.

    Args:
        config: of the run.
        budget: of the run.
        size: num_layers, num_samples and length.
        counted_batch: rows a step that a published count took, where it differs from the batch.
    """
    plan, counts = plan_until(config, budget, **size)
    steps, layer, rows = (
        len(counts["steps"]),
        int(counts["layer_tokens"][-1]),
        plan.full_batch.num_rows,
    )
    whole = steps * rows * size["length"] * size["num_layers"]
    print(
        f"{steps} steps of {rows} images ({steps * rows / size['num_samples']:.2f} passes): "
        f"layer_token {layer}, without dropping {whole}, {100 * (1 - layer / whole):.1f} % saved"
    )
    if counted_batch is not None:
        print(
            f"published accounting, {counted_batch} images a step: layer_token "
            f"{layer * counted_batch // rows}"
        )
    kept = [plan.stretch_at(step).shape.kept_length for step in (1, steps)]
    print(f"kept length {kept[0]} at step 1, {kept[1]} last")
