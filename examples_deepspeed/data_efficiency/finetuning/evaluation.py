"""How good a model is in the course of a run, and the lines that say so."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from examples_deepspeed.data_efficiency.finetuning.clocks import Totals, kept_length
from examples_deepspeed.data_efficiency.finetuning.saved_run import sum_over_processes
from examples_deepspeed.data_efficiency.finetuning.task import RunSettings, Task


@torch.no_grad()
def evaluate(engine: Any, task: Task, dataset: Any) -> float:
    """The quality on a whole data set; every process computes its share of it.

    All processes compute as many batches: what fills up the last ones does not count.
    """
    engine.eval()
    size, rank = engine.dp_world_size, engine.global_rank
    share = np.arange(rank, -(-len(dataset) // size) * size, size)
    sums = None
    starts = range(0, len(share), task.eval_batch_size)
    for start in tqdm(starts, "evaluation", leave=False, disable=None if rank == 0 else True):
        numbers = share[start : start + task.eval_batch_size]
        batch = dataset.get_batch(numbers % len(dataset), np.zeros_like(numbers))
        batch = {name: tensor.to(engine.device) for name, tensor in batch.items()}
        counts = torch.from_numpy(numbers < len(dataset)).to(engine.device)
        part = (task.scores(engine, batch).double() * counts[:, None]).sum(0)
        sums = part if sums is None else sums + part
    assert sums is not None
    return task.quality(sum_over_processes(sums).tolist())


def look(
    engine: Any, task: Task, settings: RunSettings, state: dict[str, Any], totals: Totals
) -> None:
    """Adds the present validation quality to the state's history and prints the published line."""
    start = time.perf_counter()
    found = evaluate(engine, task, task.validation)
    state["all_seconds"] += time.perf_counter() - start
    known = [record["validation"] for record in state["history"]] + [found]
    record = {
        **asdict(totals),
        "epoch": totals.samples // task.num_samples + 1,
        "training_loss": state["loss_sum"] / state["num_losses"] if state["num_losses"] else None,
        "validation": found,
        "best_validation": max(known) if task.higher_is_better else min(known),
        "kept_length": kept_length(engine, max(0, totals.steps - 1), task.length),
        "learning_rate": engine.optimizer.param_groups[0]["lr"],
        "training_seconds": state["training_seconds"],
        "all_seconds": state["all_seconds"],
    }
    state["history"].append(record)
    state["loss_sum"], state["num_losses"] = 0.0, 0
    if engine.global_rank == 0:
        fraction = settings.budget.fraction(totals)
        with tqdm.external_write_mode():
            print(progress_line(record, task.quality_name, fraction), flush=True)


def progress_line(record: Mapping[str, Any], quality_name: str, fraction: float) -> str:
    """The published line of figures and, after the bar, what it leaves out."""
    loss = (
        "" if record["training_loss"] is None else f" training loss {record['training_loss']:.4f}"
    )
    left = record["all_seconds"] * (1 - min(1.0, fraction)) / fraction if fraction else 0.0
    return (
        f"epoch {record['epoch']} step {record['micro_batches']} "
        f"consumed_token {record['consumed_token']} {quality_name} {record['validation']:.4f} "
        f"best {quality_name} {record['best_validation']:.4f} "
        f"time {record['all_seconds'] / 3600:.4f} hr reserved_length {record['kept_length']} | "
        f"optimizer steps {record['steps']}{loss} lr {record['learning_rate']:.2e} "
        f"corpus tokens {record['corpus_tokens']} layer tokens {record['layer_tokens']} "
        f"training {record['training_seconds']:.1f} s, {100 * min(1.0, fraction):.0f} % done, "
        f"{left / 60:.1f} min left"
    )


def last_line(results: Mapping[str, Any]) -> str:
    """The line that ends a run: the published figures and, after the bar, what they leave out."""
    last, name = results["history"][-1], results["quality_name"]
    return (
        f"End of training epoch {last['epoch']} step {last['micro_batches']} "
        f"consumed_token {last['consumed_token']} best {name} {last['best_validation']} "
        f"time {last['all_seconds'] / 3600} hr | test {name} {results['test']:.4f} "
        f"corpus tokens {last['corpus_tokens']} layer tokens {last['layer_tokens']}"
    )
