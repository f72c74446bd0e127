"""One step of training and one evaluation: several named losses, exact whatever the split.

All micro-batches of a step are read first, so that what each loss is a mean over is known before the
first backward pass: a loss is its sum over the global batch divided by its number of terms there, and
what is minimized is the sum of the losses.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from data_efficiency import Counters, StepShape, layer_tokens, training_flops
from megatron.reporting import format_losses
from megatron.run_state import Batch, Run, counter_record
from megatron.step_totals import (
    NO_STOP,
    StepTotals,
    StopRequest,
    losses_over_processes,
    mean_losses,
    step_over_processes,
    sums_over_processes,
)


def train_step(run: Run, batches: list[Batch], request: StopRequest = NO_STOP) -> dict[str, Any]:
    """What the log says of one step; the model and all counters are one step further.

    Args:
        run: the run.
        batches: this process's micro-batches of the step.
        request: whether this process asks all to stop after the step.

    Raises:
        ValueError: for a loss that is no finite number, unless float16 may have overflowed.
    """
    engine, config = run.engine, run.config
    own_terms = [run.task.count_loss_terms(batch) for batch in batches]
    num_terms = sums_over_processes(np.sum(own_terms, axis=0).tolist(), engine.device)
    # The engine averages over the processes; a share of the global batch's loss must be summed.
    num_processes = engine.dp_world_size
    plan = engine.training_dataloader.plan
    rate = run.learning_rate.at(run.clock_value())
    for group in engine.optimizer.param_groups:
        group["lr"] = rate

    engine.train()
    shapes = [
        _step_shape(run, batch, num_labels)
        for batch, (num_labels, *_) in zip(batches, own_terms, strict=True)
    ]
    loss_sums = torch.zeros(len(num_terms), device=engine.device)
    for number, batch in enumerate(batches):
        place = engine.global_rank * len(batches) + number
        _seed_dropout(config.training.seed, run.counters.steps, place)
        losses = run.task.forward_step(engine, _to_device(batch, engine.device))
        first, *others = (
            num_processes * loss / max(1, terms)
            for loss, terms in zip(losses, num_terms, strict=True)
        )
        engine.backward(sum(others, first), scale_wrt_gas=False)
        engine.step()
        loss_sums += torch.stack([loss.detach() for loss in losses])

    totals = step_over_processes(
        StepTotals(
            loss_sums=loss_sums.tolist(),
            num_rows=sum(shape.num_rows for shape in shapes),
            counters=_count(run, shapes, num_terms[0]),
            stop_request=request,
        ),
        engine.device,
    )
    losses_record = _losses_record(run, mean_losses(totals.loss_sums, num_terms))
    if not math.isfinite(losses_record["loss"]) and not config.training.fp16:
        raise ValueError(
            f"the loss of step {run.counters.steps + 1} is {losses_record['loss']}: lower --lr, or "
            "continue from the last checkpoint with another seed"
        )
    run.counters = run.counters.plus(totals.counters)
    run.stop_request = totals.stop_request
    return {
        "kind": "train",
        "step": run.counters.steps,
        **losses_record,
        "learning_rate": rate,
        "grad_norm": engine.get_global_grad_norm(),
        "skipped_steps": engine.skipped_steps,
        **_lengths_record(run, totals),
        "difficulties": dict(plan.batch.difficulties),
        "pool_size": plan.batch.pool_size,
    }


@torch.no_grad()
def evaluate(run: Run) -> dict[str, Any]:
    """The log's line on the validation split, at full length and without dropping.

    The perplexity is that of the first loss.
    """
    engine, dataset, task = run.engine, run.valid_dataset, run.task
    rows = run.config.training.micro_batch_size
    share = rows * engine.dp_world_size
    num_samples = len(dataset)
    if run.config.training.eval_iters:
        num_samples = min(num_samples, run.config.training.eval_iters * engine.train_batch_size())
    engine.eval()
    loss_sums = torch.zeros(len(task.losses), dtype=torch.float64, device=engine.device)
    num_terms = np.zeros(len(task.losses), np.int64)
    for start in range(0, num_samples, share):
        first = start + engine.global_rank * rows
        samples = np.arange(first, first + rows)
        # A process beyond the last sample repeats it, uncounted: sharded weights need every forward.
        counted = samples[samples < num_samples]
        arrays = dataset.get_batch(counted if len(counted) else np.array([num_samples - 1]))
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        losses = task.forward_step(engine, _to_device(batch, engine.device))
        if len(counted):
            num_terms += task.count_loss_terms(batch)
            loss_sums += torch.stack(list(losses))
    means = losses_over_processes(loss_sums.tolist(), num_terms.tolist(), engine.device)
    record = _losses_record(run, means)
    perplexity = math.exp(min(means[0], 700.0))
    run.say(
        f"validation at step {run.counters.steps}: {format_losses(record)} | "
        f"perplexity {perplexity:.2f}"
    )
    return {"kind": "valid", **record, "perplexity": perplexity, **counter_record(run)}


def _losses_record(run: Run, means: Sequence[float]) -> dict[str, float]:
    """What is minimized, and each loss by its name."""
    named = zip(run.task.losses, means, strict=True)
    return {"loss": sum(means)} | {f"{name}_loss": mean for name, mean in named}


def _lengths_record(run: Run, totals: StepTotals) -> dict[str, int | None]:
    """Lengths of a row, rounded down: micro-batches whose padding was trimmed differ in theirs.

    `sequence_length` and `kept_length` are means over the rows, the second in layers that drop;
    `actual_seq_length` is the mean over rows and layers.
    """
    counters, rows = totals.counters, totals.num_rows
    num_layers, num_dropping = run.shape.num_layers, run.num_dropping_layers
    kept_length = None
    if num_dropping:
        in_others = (num_layers - num_dropping) * counters.corpus_tokens
        kept_length = (counters.layer_tokens - in_others) // (num_dropping * rows)
    return {
        "sequence_length": counters.corpus_tokens // rows,
        "kept_length": kept_length,
        "actual_seq_length": counters.layer_tokens // (num_layers * rows),
    }


def _step_shape(run: Run, batch: Batch, num_labels: int) -> StepShape:
    num_rows, length = batch["tokens"].shape
    kept_length = None
    if run.num_dropping_layers:
        kept_length = run.engine.random_ltd_scheduler.kept_length(run.engine.global_steps, length)
    return StepShape(
        num_rows=num_rows,
        sequence_length=length,
        num_dropping_layers=run.num_dropping_layers,
        kept_length=kept_length,
        num_labels=num_labels,
    )


def _count(run: Run, shapes: list[StepShape], loss_tokens: int) -> Counters:
    """What one step adds to the counters: this process's part, but for the tokens in the loss."""
    return Counters(
        steps=1,
        consumed_samples=run.engine.train_batch_size(),
        corpus_tokens=sum(shape.num_rows * shape.sequence_length for shape in shapes),
        loss_tokens=loss_tokens,
        layer_tokens=sum(layer_tokens(shape, run.shape.num_layers) for shape in shapes),
        flops=sum(training_flops(shape, run.shape) for shape in shapes),
    )


def _seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """Makes what dropout draws a function of seed, step and micro-batch alone."""
    state = np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
