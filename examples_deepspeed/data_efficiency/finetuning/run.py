"""One finetuning run: from its first step, or from where it was stopped, to its results.

Everything that happens at a step is a function of (seed, step), so a run that was killed gives the same
final numbers as one that was not.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_efficiency import StepShape
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, LearningRate, Totals
from examples_deepspeed.data_efficiency.finetuning.saved_run import (
    load_run,
    save_run,
    sum_over_processes,
    wait_for_all,
)

RESULTS_FILE = "results.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What differs between texts and images."""

    num_layers: int
    num_samples: int
    """Of the training data: one epoch."""
    length: int
    """Positions of a whole row that a layer sees."""
    loss: Callable[[Any, Any], torch.Tensor]
    """(engine, micro-batch) -> its mean loss."""
    shape: Callable[[Any], tuple[int, int]]
    """micro-batch -> rows, and positions of a row that a layer sees when nothing is dropped."""
    scores: Callable[[Any, Any], torch.Tensor]
    """(engine, batch) -> float64 [rows, numbers], to be summed over a whole data set."""
    quality: Callable[[Sequence[float]], float]
    """These sums -> the quality."""
    quality_name: str
    higher_is_better: bool
    validation: Any
    """Has a length and `get_batch(samples, visits)`, as the next has."""
    test: Any
    eval_batch_size: int
    export: Callable[[Any, Path], None] | None = None
    """(engine, folder): writes the finetuned model there; every process calls it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where a run stands on disk, how long it is, and how often it looks up."""

    folder: Path
    budget: Budget
    learning_rate: LearningRate
    seed: int
    eval_interval_steps: int
    save_interval_steps: int
    description: Mapping[str, Any]
    """Plain JSON data that says which run it is; a run goes on only with its own."""


def train(engine: Any, task: Task, settings: RunSettings) -> dict[str, Any]:
    """The results of a run, also in `<folder>/results.json`. Every process must call it.

    Raises:
        ValueError: if the folder holds another run, or the configuration's data ends too early.
    """
    checkpoint = settings.folder / "last"
    state: dict[str, Any] = {
        "description": settings.description,
        "totals": asdict(Totals()),
        "history": [],
        "loss_sum": 0.0,
        "num_losses": 0,
        "training_seconds": 0.0,
        "all_seconds": 0.0,
    }
    if (checkpoint / "manifest.json").is_file():
        state = load_run(checkpoint, engine)
        check_same_run(state["description"], settings)
    totals = Totals(**state["totals"])
    watch = _Stopwatch(state)
    batches = iter(engine.training_dataloader)
    losses: list[torch.Tensor] = []
    if not state["history"]:
        _look(engine, task, settings, state, totals)
    watch.restart()
    while settings.budget.fraction(totals) < 1:
        totals, loss = _train_step(engine, task, settings, batches, totals)
        losses.append(loss)
        finished = settings.budget.fraction(totals) >= 1
        looks = totals.steps % settings.eval_interval_steps == 0 or finished
        saves = totals.steps % settings.save_interval_steps == 0 and not finished
        if looks or saves:
            watch.lap("training_seconds")
            state["totals"] = asdict(totals)
            _add_losses(engine, state, losses)
            losses = []
            if looks:
                _look(engine, task, settings, state, totals)
            if saves:
                save_run(checkpoint, engine, state)
            watch.restart()
    return _finish(engine, task, settings, state)


def check_same_run(found: Mapping[str, Any], settings: RunSettings) -> None:
    """Nothing, if a folder holds the run that is asked for.

    Raises:
        ValueError: naming what differs.
    """
    wanted = json.loads(json.dumps(settings.description))
    differing = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
    if differing:
        key = min(differing)
        raise ValueError(
            f"{settings.folder} holds another run: its {key} is {found.get(key)!r}, here "
            f"{wanted.get(key)!r}; choose another --save or remove the folder"
        )


def finished_results(settings: RunSettings) -> dict[str, Any] | None:
    """The results of a run that is over; None if it is not.

    Raises:
        ValueError: if they are another run's.
    """
    path = settings.folder / RESULTS_FILE
    if not path.is_file():
        return None
    results: dict[str, Any] = json.loads(path.read_text())
    check_same_run(results["description"], settings)
    return results


def _train_step(
    engine: Any, task: Task, settings: RunSettings, batches: Iterator[Any], totals: Totals
) -> tuple[Totals, torch.Tensor]:
    """The totals after one global batch, and its loss on this process."""
    rate = settings.learning_rate.at(totals.steps, settings.budget.fraction(totals))
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    engine.train()
    num_micro_batches = engine.gradient_accumulation_steps()
    loss_sum, shape = None, (0, 0)
    for number in range(num_micro_batches):
        batch = next(batches, None)
        if batch is None:
            raise ValueError(
                f"the data ends at step {totals.steps} before the budget does: raise num_epochs in "
                "the configuration"
            )
        batch = {name: tensor.to(engine.device) for name, tensor in batch.items()}
        # Dropout differs from place to place and is the same again after a resume.
        place = [settings.seed, totals.steps, number, engine.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        loss = task.loss(engine, batch)
        engine.backward(loss)
        engine.step()
        shape = task.shape(batch)
        part = loss.detach() / num_micro_batches
        loss_sum = part if loss_sum is None else loss_sum + part
    assert loss_sum is not None
    rows, length = shape
    dropping = engine.data_efficiency_config.random_ltd
    step_shape = StepShape(
        num_rows=rows * num_micro_batches * engine.dp_world_size,
        sequence_length=length,
        num_dropping_layers=0 if dropping is None else dropping.random_ltd_layer_num,
        kept_length=kept_length(engine, totals.steps, length),
    )
    after = totals.after(
        step_shape,
        num_layers=task.num_layers,
        samples=engine.train_batch_size(),
        micro_batches=num_micro_batches,
    )
    return after, loss_sum


def kept_length(engine: Any, step: int, length: int) -> int:
    """Positions of a row that a dropping layer sees after `step` finished steps."""
    router = engine.random_ltd_scheduler
    return length if router is None else min(length, router.kept_length(step, length))


@torch.no_grad()
def evaluate(engine: Any, task: Task, dataset: Any) -> float:
    """The quality on a whole data set; every process computes its share of it.

    All processes compute as many batches: what fills up the last ones does not count.
    """
    engine.eval()
    size, rank = engine.dp_world_size, engine.global_rank
    share = np.arange(rank, -(-len(dataset) // size) * size, size)
    sums = None
    for start in range(0, len(share), task.eval_batch_size):
        numbers = share[start : start + task.eval_batch_size]
        batch = dataset.get_batch(numbers % len(dataset), np.zeros_like(numbers))
        batch = {name: tensor.to(engine.device) for name, tensor in batch.items()}
        counts = torch.from_numpy(numbers < len(dataset)).to(engine.device)
        part = (task.scores(engine, batch).double() * counts[:, None]).sum(0)
        sums = part if sums is None else sums + part
    assert sums is not None
    return task.quality(sum_over_processes(sums).tolist())


def _add_losses(engine: Any, state: dict[str, Any], losses: Sequence[torch.Tensor]) -> None:
    """Adds losses of finished steps to the state, read from the device only now."""
    total = sum_over_processes(torch.stack(list(losses)).double().sum())
    state["loss_sum"] += float(total) / engine.dp_world_size
    state["num_losses"] += len(losses)


def _look(
    engine: Any, task: Task, settings: RunSettings, state: dict[str, Any], totals: Totals
) -> None:
    """Adds the present validation quality to the history and prints the published line."""
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
        print(
            progress_line(record, task.quality_name, settings.budget.fraction(totals)), flush=True
        )


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


def _finish(
    engine: Any, task: Task, settings: RunSettings, state: dict[str, Any]
) -> dict[str, Any]:
    last = state["history"][-1]
    results = {
        "description": dict(settings.description),
        "quality_name": task.quality_name,
        "higher_is_better": task.higher_is_better,
        "num_layers": task.num_layers,
        "num_parameters": sum(parameter.numel() for parameter in engine.module.parameters()),
        "num_processes": engine.dp_world_size,
        **{key: last[key] for key in (*asdict(Totals()), "training_seconds", "all_seconds")},
        "validation": last["validation"],
        "best_validation": last["best_validation"],
        "test": evaluate(engine, task, task.test),
        "history": state["history"],
    }
    if task.export is not None:
        # Before the results: they say that nothing is left to do.
        task.export(engine, settings.folder / "model")
    if engine.global_rank == 0:
        settings.folder.mkdir(parents=True, exist_ok=True)
        partial = settings.folder / f"{RESULTS_FILE}.partial"
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(settings.folder / RESULTS_FILE)
        shutil.rmtree(settings.folder / "last", ignore_errors=True)
        print(
            f"End of training epoch {last['epoch']} step {last['micro_batches']} "
            f"consumed_token {last['consumed_token']} best {task.quality_name} "
            f"{last['best_validation']} time {last['all_seconds'] / 3600} hr | "
            f"test {task.quality_name} {results['test']:.4f} corpus tokens {last['corpus_tokens']} "
            f"layer tokens {last['layer_tokens']}",
            flush=True,
        )
    wait_for_all()
    return results


class _Stopwatch:
    """Adds the time between two calls to the state's seconds."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self.restart()

    def restart(self) -> None:
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        passed = time.perf_counter() - self._start
        self._state[name] += passed
        self._state["all_seconds"] += passed
