"""One finetuning run beside its loop: its budget, its history, its folder, and the lines it prints.

Everything that happens at a step is a function of (seed, step), so a run that was killed gives the same
final numbers as one that was not. `consumed_token` is the published count: rows x the layer-averaged
length of a row, rounded down. Its neighbours say what it hides.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from tqdm import tqdm

from data_efficiency import (
    LearningRate,
    ModelShape,
    StepResult,
    files,
    gather_all,
    leave_ranks,
    mean_losses_over,
    naming_lost_processes,
    watching_processes,
)
from megatron.checkpoint.saved_run import SavedRun, refuse_other_settings
from megatron.study import RESULTS_FILE

# Where a run stands, how it is computed and how often it looks up: nothing that is part of what it is.
_NOT_PART_OF_A_RUN = frozenset(
    [
        "save",
        "engine",
        "seeds",
        "plan",
        "export",
        "save_interval",
        "local_rank",
        "num_blocks",
        "data_folder",
        "text",
    ]
)


def layers_alone(num_layers: int) -> ModelShape:
    """The shape of a model whose tokens are counted, and no FLOPs."""
    return ModelShape(
        num_layers=num_layers,
        hidden_size=0,
        query_size=0,
        key_value_size=0,
        ffn_size=0,
        num_ffn_matrices=0,
        vocab_size=0,
    )


class FinetuningRun:
    """What is known of a run before its engine, and then what it has counted.

    Args:
        arguments: with the flags of `add_run_flags`.
        seed: of this run.
        data: plain JSON data that says what it trains and is measured on.
        budget: a unit (consumed_token, layer_tokens or steps) and how much of it the run has.
        length: positions of a whole row.
        num_samples: of the training data.
        quality: its name, and whether higher is better.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        seed: int,
        data: Mapping[str, Any],
        *,
        budget: tuple[str, int],
        length: int,
        num_samples: int,
        quality: tuple[str, bool],
    ) -> None:
        flags = {key: v for key, v in vars(arguments).items() if key not in _NOT_PART_OF_A_RUN}
        recipe = [Path(path).read_text() for path in arguments.recipe]
        described = {**flags, "recipe": recipe, "seed": seed, "data_identity": data}
        self.saved = SavedRun(
            folder=Path(arguments.save) / arguments.variant / f"seed{seed}",
            interval=arguments.save_interval,
            settings=json.loads(json.dumps(described)),
        )
        self._arguments, self._budget, self._quality = arguments, budget, quality
        self._length, self._num_samples = length, num_samples
        self.state: dict[str, Any] = {
            "consumed_token": 0,
            "history": [],
            "losses": [],
            "training_seconds": 0.0,
            "all_seconds": 0.0,
        }

    def is_finished(self) -> bool:
        """Whether the run is over and its results lie in its folder.

        Raises:
            ValueError: if they are another run's.
        """
        path = self.saved.folder / RESULTS_FILE
        if not path.is_file():
            return False
        with files.reading(path):
            found = files.read_json_object(path)["description"]
        refuse_other_settings(self.saved.folder, found, self.saved.settings)
        print(f"{self.saved.folder} is finished", flush=True)
        return True

    def begin(self, engine: Any) -> None:
        """Give the engine its learning rate, and go on from the last checkpoint, if there is one.

        Raises:
            ValueError: if the folder holds another run.
        """
        self.engine = engine
        engine.follow_learning_rate(self._learning_rate())
        self.state = self.saved.resume(engine) or self.state
        self._mark = time.perf_counter()

    def batches(self) -> Iterator[list[Any]]:
        """The micro-batches of each step until the budget is used up.

        Raises:
            ValueError: if the data ends before.
        """
        steps, ranks = self.engine.training_dataloader.steps(), self.engine.ranks
        with (
            watching_processes(ranks),
            self.saved.held(ranks),
            tqdm(total=100, desc="training", unit=" %", leave=False, disable=self._quiet) as bar,
        ):
            while self.fraction < 1:
                bar.update(int(100 * self.fraction) - bar.n)
                step = next(steps, None)
                if step is None:
                    raise ValueError(
                        f"the data ends at step {self.engine.counters.steps} before the budget does: "
                        "raise num_epochs in the configuration"
                    )
                yield step

    def add(self, step: StepResult) -> bool:
        """Count a finished step; whether it is time to look how good the model is."""
        self.state["consumed_token"] += step.num_rows * step.actual_seq_length
        self.state["losses"].append(step.loss)
        self._lap("training_seconds", "all_seconds")
        return step.counters.steps % self._arguments.eval_interval == 0 or self.fraction >= 1

    def look(self, found: float) -> None:
        """Add the present quality to the history and print the published line."""
        self._lap("all_seconds")
        state, losses = self.state, self.state["losses"]
        known = [record["validation"] for record in state["history"]] + [found]
        record = {
            **self._counts(),
            "epoch": self.engine.counters.consumed_samples // self._num_samples + 1,
            "training_loss": sum(losses) / len(losses) if losses else None,
            "validation": found,
            "best_validation": max(known) if self._quality[1] else min(known),
            "kept_length": self._kept_length(),
            "learning_rate": self.engine.optimizer.param_groups[0]["lr"],
            "training_seconds": state["training_seconds"],
            "all_seconds": state["all_seconds"],
        }
        state["history"].append(record)
        state["losses"] = []
        if self.engine.ranks.is_first:
            with tqdm.external_write_mode():
                print(progress_of(record, self._quality[0], self.fraction), flush=True)

    def save_when_due(self) -> None:
        """Write a checkpoint if it is time for one."""
        if self.fraction < 1:
            self.saved.save_when_due(self.engine, self.state)
            self._mark = time.perf_counter()

    def finish(self, test: float) -> None:
        """Write the results in place of the checkpoints; they say that nothing is left to do."""
        last, engine, name = self.state["history"][-1], self.engine, self._quality[0]
        if engine.ranks.is_first:
            results = {
                **last,
                "description": self.saved.settings,
                "quality_name": name,
                "num_layers": engine.num_layers,
                "num_processes": engine.ranks.world,
                "test": test,
                "history": self.state["history"],
            }
            files.write_file(self.saved.folder / RESULTS_FILE, json.dumps(results, indent=1) + "\n")
            self.saved.remove()
            print(
                f"End of training epoch {last['epoch']} step {last['micro_batches']} "
                f"consumed_token {last['consumed_token']} best {name} {last['best_validation']} "
                f"time {last['all_seconds'] / 3600} hr | test {name} {test:.4f} "
                f"corpus tokens {last['corpus_tokens']} layer tokens {last['layer_tokens']}",
                flush=True,
            )
        engine.ranks.wait()

    @property
    def fraction(self) -> float:
        """The part of the budget that is used up; 1 or more at the end."""
        unit, amount = self._budget
        spent: int = self._counts()[unit]
        return spent / amount

    @property
    def _quiet(self) -> bool | None:
        """Tqdm's None: only on a terminal."""
        return None if self.engine.ranks.is_first else True

    def _counts(self) -> dict[str, int]:
        counters = self.engine.counters
        return {
            "steps": counters.steps,
            "micro_batches": counters.steps * self.engine.gradient_accumulation_steps(),
            "samples": counters.consumed_samples,
            "corpus_tokens": counters.corpus_tokens,
            "layer_tokens": counters.layer_tokens,
            "consumed_token": self.state["consumed_token"],
        }

    def _kept_length(self) -> int:
        """Positions of a whole row that a dropping layer saw in the last step."""
        router = self.engine.random_ltd_scheduler
        if router is None:
            return self._length
        before = max(0, self.engine.counters.steps - 1)
        return min(self._length, router.kept_length(before, self._length))

    def _learning_rate(self) -> LearningRate:
        """Warm-up, then the decay to the end of the budget."""
        arguments, (unit, amount) = self._arguments, self._budget
        tokens = self.engine.train_batch_size() * self._length
        clock, share = {
            "steps": ("steps", 1),
            "consumed_token": ("effective", tokens),
            "layer_tokens": ("layer", tokens * self.engine.num_layers),
        }["steps" if arguments.lr_decay == "constant" else unit]
        return LearningRate(
            peak=arguments.learning_rate,
            minimum=0.0,
            style=arguments.lr_decay,
            clock=clock,
            warmup=arguments.warmup_steps * share,
            decay=amount,
            share=share,
        )

    def _lap(self, *names: str) -> None:
        """Add the time since the last call to some of the state's seconds."""
        now = time.perf_counter()
        for name in names:
            self.state[name] += now - self._mark
        self._mark = now


@torch.no_grad()
def mean_over(
    engine: Any,
    dataset: Any,
    batch_size: int,
    sums: Callable[[Any], torch.Tensor],
    num_terms: Callable[[Any], torch.Tensor] | None = None,
) -> float:
    """The mean of a score over a whole data set; every process calls it, and computes its share.

    All processes compute as many batches: what fills up the last ones does not count.

    Args:
        engine: in training.
        dataset: has a length and `get_batch(samples, visits)`.
        batch_size: rows of a forward.
        sums: batch -> each row's sum of what the mean is taken of.
        num_terms: batch -> over how many terms each row's sum is; None: one.
    """
    engine.eval()
    ranks = engine.ranks
    size = ranks.data_parallel_size
    share = np.arange(ranks.data_parallel_rank, -(-len(dataset) // size) * size, size)
    total, terms = 0.0, 0
    for start in range(0, len(share), batch_size):
        numbers = share[start : start + batch_size]
        batch = dataset.get_batch(numbers % len(dataset), np.zeros_like(numbers))
        counts = torch.from_numpy(numbers < len(dataset))
        batch = {name: part.to(ranks.device) for name, part in batch.items()}
        total += float((sums(batch).double().cpu() * counts).sum())
        terms += int(((1 if num_terms is None else num_terms(batch).cpu()) * counts).sum())
    return mean_losses_over(ranks, [total], [terms])[0]


def whole_copies(engine: Any) -> dict[str, torch.Tensor]:
    """The weights to export, on process 0; tied ones apart, as safetensors wants them."""
    weights = gather_all(engine.whole_weights(), keep=engine.ranks.is_first)
    return {name: tensor.clone() for name, tensor in weights.items()}


def progress_of(record: Mapping[str, Any], quality_name: str, fraction: float) -> str:
    """The published line of figures and, after the bar, what it leaves out."""
    mean = record["training_loss"]
    loss = "" if mean is None else f" training loss {mean:.4f}"
    done = min(1.0, fraction)
    left = record["all_seconds"] * (1 - done) / fraction if fraction else 0.0
    return (
        f"epoch {record['epoch']} step {record['micro_batches']} "
        f"consumed_token {record['consumed_token']} {quality_name} {record['validation']:.4f} "
        f"best {quality_name} {record['best_validation']:.4f} "
        f"time {record['all_seconds'] / 3600:.4f} hr reserved_length {record['kept_length']} | "
        f"optimizer steps {record['steps']}{loss} lr {record['learning_rate']:.2e} "
        f"corpus tokens {record['corpus_tokens']} layer tokens {record['layer_tokens']} "
        f"training {record['training_seconds']:.1f} s, {100 * done:.0f} % done, {left / 60:.1f} min left"
    )


@contextmanager
def process_group() -> Iterator[None]:
    """Leave the run's process group at the end; say which process was lost, if one was."""
    with naming_lost_processes():
        try:
            yield
        finally:
            leave_ranks()
