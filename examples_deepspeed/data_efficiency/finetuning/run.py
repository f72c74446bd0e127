"""One finetuning run: from its first step, or from where it was stopped, to its results.

Everything that happens at a step is a function of (seed, step), so a run that was killed gives the same
final numbers as one that was not.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data_efficiency import StepShape
from examples_deepspeed.data_efficiency.finetuning.clocks import Budget, Totals, kept_length
from examples_deepspeed.data_efficiency.finetuning.evaluation import evaluate, last_line, look
from examples_deepspeed.data_efficiency.finetuning.saved_run import (
    load_run,
    read_state,
    save_run,
    sum_over_processes,
    wait_for_all,
)
from examples_deepspeed.data_efficiency.finetuning.task import RunSettings, Task

RESULTS_FILE = "results.json"


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
        state, progress = read_state(checkpoint)
        check_same_run(state["description"], settings)
        load_run(checkpoint, engine, progress)
    totals = Totals(**state["totals"])
    watch = _Stopwatch(state)
    batches = iter(engine.training_dataloader)
    losses: list[torch.Tensor] = []
    if not state["history"]:
        look(engine, task, settings, state, totals)
    bar = _progress_bar(engine, settings.budget, totals)
    watch.restart()
    while settings.budget.fraction(totals) < 1:
        totals, loss = _train_step(engine, task, settings, batches, totals)
        losses.append(loss)
        bar.update(settings.budget.spent(totals) - bar.n)
        finished = settings.budget.fraction(totals) >= 1
        looks = totals.steps % settings.eval_interval_steps == 0 or finished
        saves = totals.steps % settings.save_interval_steps == 0 and not finished
        if looks or saves:
            watch.lap("training_seconds")
            state["totals"] = asdict(totals)
            _add_losses(engine, state, losses)
            losses = []
            if looks:
                look(engine, task, settings, state, totals)
            if saves:
                save_run(checkpoint, engine, state)
            watch.restart()
    bar.close()
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


def is_finished(settings: RunSettings) -> bool:
    """Whether the run is over and its results lie in its folder.

    Raises:
        ValueError: if they are another run's.
    """
    path = settings.folder / RESULTS_FILE
    if not path.is_file():
        return False
    check_same_run(json.loads(path.read_text())["description"], settings)
    return True


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


def _add_losses(engine: Any, state: dict[str, Any], losses: Sequence[torch.Tensor]) -> None:
    """Adds losses of finished steps to the state, read from the device only now."""
    total = sum_over_processes(torch.stack(list(losses)).double().sum())
    state["loss_sum"] += float(total) / engine.dp_world_size
    state["num_losses"] += len(losses)


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
        print(last_line(results), flush=True)
    wait_for_all()
    return results


def _progress_bar(engine: Any, budget: Budget, totals: Totals) -> Any:
    """On a terminal, how much of the budget is used up and the time left; of one process."""
    return tqdm(
        desc="training",
        total=budget.amount,
        initial=budget.spent(totals),
        unit=f" {budget.unit}",
        unit_scale=True,
        leave=False,
        disable=None if engine.global_rank == 0 else True,
    )


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
