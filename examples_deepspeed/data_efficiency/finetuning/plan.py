"""What a recipe will count, step by step, before anything runs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from data_efficiency import ModelShape, RunPlan, plan_run
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, Totals, planned_totals


def plan_until(
    config: Any, budget: Budget, *, num_layers: int, num_samples: int, length: int
) -> tuple[RunPlan, list[Totals]]:
    """The plan of a run and its totals after each step, the last of which ends the budget."""
    # What only FLOPs depend on stays 0: tokens are what is counted here.
    model = ModelShape(
        num_layers=num_layers,
        hidden_size=0,
        query_size=0,
        key_value_size=0,
        ffn_size=0,
        num_ffn_matrices=0,
        vocab_size=0,
    )
    micro_batches = config.batch_sizes(1)[1]
    num_steps = 64
    while True:
        plan = plan_run(
            config,
            model=model,
            sequence_length=length,
            num_steps=num_steps,
            num_samples=num_samples,
        )
        totals = list(_until_the_end(plan, budget, micro_batches))
        if budget.fraction(totals[-1]) >= 1:
            return plan, totals
        num_steps *= 4


def _until_the_end(plan: RunPlan, budget: Budget, micro_batches: int) -> Iterator[Totals]:
    for totals in planned_totals(plan, micro_batches):
        yield totals
        if budget.fraction(totals) >= 1:
            return


def print_text_plan(
    config: Any, *, num_layers: int, num_samples: int, length: int, epochs: float
) -> None:
    """Print the published accounting of a run on text, and what it leaves out."""
    budget = Budget(unit="consumed_token", amount=round(epochs * num_samples * length))
    plan, totals = plan_until(
        config, budget, num_layers=num_layers, num_samples=num_samples, length=length
    )
    last, before = totals[-1], totals[-2] if len(totals) > 1 else Totals()
    published = stopped_between_micro_batches(before, last, budget)
    print(f"budget: {budget.amount} consumed_token, {epochs:g} epochs of {num_samples} x {length}")
    print(
        f"published accounting: step {published.micro_batches} "
        f"consumed_token {published.consumed_token} (micro-batches; may stop inside a global batch)"
    )
    print(
        f"this program: step {last.micro_batches} consumed_token {last.consumed_token}, "
        f"{last.steps} optimizer steps, whole global batches"
    )
    passes = last.corpus_tokens / (num_samples * length)
    whole = num_layers * last.corpus_tokens
    print(
        f"beside it: corpus tokens {last.corpus_tokens} ({passes:.2f} passes), layer tokens "
        f"{last.layer_tokens}, {100 * (1 - last.layer_tokens / whole):.1f} % saved of the "
        f"{whole} that as many corpus tokens take without dropping"
    )
    first_shape, last_shape = plan.stretch_at(1).shape, plan.stretch_at(last.steps).shape
    print(
        f"kept length {first_shape.kept_length} at step 1, {last_shape.kept_length} at the last; row "
        f"length {first_shape.sequence_length} and {last_shape.sequence_length}"
    )


def stopped_between_micro_batches(before: Totals, last: Totals, budget: Budget) -> Totals:
    """Where a run that looks at its budget after every micro-batch stops within its last step."""
    micro_batches = last.micro_batches - before.micro_batches
    tokens = (last.consumed_token - before.consumed_token) // micro_batches
    done = -(-(budget.amount - before.consumed_token) // tokens)
    return replace(
        last,
        micro_batches=before.micro_batches + done,
        consumed_token=before.consumed_token + done * tokens,
    )


def print_image_plan(
    config: Any,
    budget: Budget,
    *,
    num_layers: int,
    num_samples: int,
    length: int,
    counted_batch: int | None,
) -> None:
    """Print the accounting of a run on images.

    Args:
        config: of the run.
        budget: of the run.
        num_layers: of the model.
        num_samples: training images.
        length: positions of a row.
        counted_batch: rows a step that a published count took, where it differs from the batch.
    """
    plan, totals = plan_until(
        config, budget, num_layers=num_layers, num_samples=num_samples, length=length
    )
    last = totals[-1]
    whole = last.samples * length * num_layers
    print(
        f"{last.steps} steps of {plan.full_batch.num_rows} images ({last.samples / num_samples:.2f} passes): "
        f"layer_token {last.layer_tokens}, without dropping {whole}, "
        f"{100 * (1 - last.layer_tokens / whole):.1f} % saved"
    )
    if counted_batch is not None:
        print(
            f"published accounting, {counted_batch} images a step: layer_token "
            f"{last.layer_tokens * counted_batch // plan.full_batch.num_rows}"
        )
    kept = [plan.stretch_at(step).shape.kept_length for step in (1, last.steps)]
    print(f"kept length {kept[0]} at step 1, {kept[1]} last")
