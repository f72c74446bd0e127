"""How a run does on the validation split."""

import math
from typing import Any

import numpy as np
import torch

from data_efficiency import IGNORED_LABEL, NonFiniteError
from data_efficiency.engine.step import mean_losses_over
from megatron.reporting import format_losses
from megatron.run_records import counter_record, losses_record
from megatron.run_state import Run


@torch.no_grad()
def validate(run: Run, *, of: str = "") -> dict[str, Any]:
    """The log's line on the validation split, at full length and without dropping.

    The perplexity is that of the first loss. So are the bits per byte, where the bytes are known:
    the summed loss in nats over ln 2 x the bytes of text that its tokens stand for. A control token has a
    loss and no bytes.

    Args:
        of: what is printed behind "validation", where it is not of the run's own weights.

    Raises:
        NonFiniteError: for a loss that is no finite number.
    """
    engine, dataset, ranks = run.engine, run.valid_dataset, run.engine.ranks
    rows = run.config.training.micro_batch_size
    share = rows * ranks.data_parallel_size
    num_samples = len(dataset)
    if run.config.training.eval_iters:
        num_samples = min(num_samples, run.config.training.eval_iters * engine.train_batch_size())
    engine.eval()
    loss_sums = torch.zeros(len(run.task.losses), dtype=torch.float64, device=ranks.device)
    num_terms = np.zeros(len(run.task.losses), np.int64)
    num_bytes = 0
    for start in range(0, num_samples, share):
        first = start + ranks.data_parallel_rank * rows
        samples = np.arange(first, first + rows)
        # A process beyond the last sample repeats it, uncounted: sharded weights need every forward.
        counted = samples[samples < num_samples]
        arrays = dataset.get_batch(counted if len(counted) else np.array([num_samples - 1]))
        batch = {name: torch.from_numpy(array).to(ranks.device) for name, array in arrays.items()}
        losses = run.loss_sums(batch)
        if len(counted):
            num_terms += list(run.loss_terms(batch).values())
            loss_sums += torch.stack(list(losses.values()))
            if run.bytes_of_tokens is not None:
                labels = arrays["labels"]
                num_bytes += int(run.bytes_of_tokens[labels[labels != IGNORED_LABEL]].sum())
    means = mean_losses_over(ranks, loss_sums.tolist(), num_terms.tolist())
    record = losses_record(dict(zip(run.task.losses, means, strict=True)))
    if not math.isfinite(record["loss"]):
        raise NonFiniteError(
            f"the validation loss after step {run.counters.steps} is {record['loss']}: the weights are "
            "no good"
        )
    perplexity = math.exp(min(means[0], 700.0))
    says = f"validation{of} at step {run.counters.steps}: {format_losses(record)}"
    says += f" | perplexity {perplexity:.2f}"
    more = {"perplexity": perplexity}
    tokens, text_bytes = ranks.sums([int(num_terms[0]), num_bytes])
    if text_bytes:
        more["bits_per_byte"] = means[0] * tokens / (math.log(2) * text_bytes)
        says += f" | bits per byte {more['bits_per_byte']:.4f}"
    run.say(says)
    return {"kind": "valid", **record, **more, **counter_record(run)}


def validation_record(run: Run) -> dict[str, Any] | None:
    """The log's line on the validation split, that of the averaged weights in it; None where nothing is validated."""
    if run.valid_dataset is None:
        return None
    record = validate(run)
    if run.average is not None:
        with run.average.in_place(run.engine):
            averaged = validate(run, of=" of the average of the weights")
        known = {"kind", *counter_record(run)}
        record |= {f"average_{name}": averaged[name] for name in averaged.keys() - known}
    return {**record, "waited": run.waiting.share()}
