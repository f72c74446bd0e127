"""One finetuning run: its budget, its loop, its log and folder, and the lines it prints.

Everything that happens at a step is a function of (seed, step), so a run that was killed gives the same
final numbers as one that was not. `consumed_token` is the published count: rows x the layer-averaged
length of a row, rounded down. Its neighbours say what it hides.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from tqdm import tqdm

from data_efficiency import Counters, LearningRate, StepResult, leave_ranks, start_ranks
from data_efficiency.engine.ranks import naming_lost_processes
from data_efficiency.engine.watch import watching_processes
from megatron.checkpoint.provenance import provenance
from megatron.config import AnyRunConfig
from megatron.finetuning.run_folder import saved_run
from megatron.finetuning.section import RunSize
from megatron.reporting import RunLogger, WaitingTime
from megatron.run_records import begin_record, counter_record
from megatron.run_settings import AnyRun, keep_run_file, with_batch_size, with_folder
from megatron.run_state import StopRequest
from megatron.stopping import StopSignals, status_after

Scores = Mapping[str, float]
"""Measure -> value."""


@dataclass(frozen=True, kw_only=True)
class FinetuningTask:
    """What a program brings to its run."""

    size: RunSize
    identity: Mapping[str, Any]
    """Plain JSON data that says what it trains and is measured on."""
    budget: tuple[str, int]
    """A unit (consumed_token, layer_tokens or steps) and how much of it the run has."""
    measures: Sequence[Mapping[str, Any]]
    """`name`, `unit`, `higher_is_better` of each; by the first one runs are compared. `curve`: the measure
    that stands for it before the end of the run."""
    quality: str
    """What the lines on the console call the measure of the validation part."""
    eval_interval: int
    """Steps between evaluations."""
    looks_first: bool = True
    """Evaluate before the first step, too."""


@dataclass(kw_only=True)
class _Progress:
    """What a checkpoint holds of the loop, plain JSON data."""

    consumed_token: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last evaluation."""
    training_seconds: float = 0.0
    all_seconds: float = 0.0


class FinetuningRun:
    """A run of which the engine is there.

    Args:
        config: all settings, with a folder.
        task: what is trained and measured.
        engine: at its beginning.
        learning_rate: over the budget.
        first_weights: checksum of the weights that training begins with.
    """

    def __init__(
        self,
        config: AnyRunConfig,
        task: FinetuningTask,
        engine: Any,
        learning_rate: LearningRate,
        first_weights: str,
    ) -> None:
        self.config, self.task, self.engine = config, task, engine
        self.saved = saved_run(config, task.identity)
        self._first_weights = first_weights
        self._progress = _Progress()
        self._asked = StopRequest()
        self._logger: RunLogger | None = None
        self._waiting = WaitingTime()
        engine.follow_learning_rate(learning_rate)

    @property
    def counters(self) -> Counters:
        """Of all finished steps."""
        counters: Counters = self.engine.counters
        return counters

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.task.size.num_layers

    @property
    def seconds(self) -> float:
        """Training time so far, without evaluation and checkpoints."""
        return self._progress.training_seconds

    @property
    def fraction(self) -> float:
        """The part of the budget that is used up; 1 or more at the end."""
        unit, amount = self.task.budget
        spent: int = self._counts()[unit]
        return spent / amount

    def train(
        self,
        loss_sum: Callable[[Any], torch.Tensor],
        num_terms: Callable[[Any], Any],
        evaluate: Callable[[], Scores],
        *,
        at_end: Callable[[], Scores] | None = None,
        shape: Callable[[Any], tuple[int, int]] | None = None,
        steps: Callable[[int], Iterator[list[Any]]] | None = None,
        export: Callable[[Path], None] | None = None,
    ) -> int:
        """Train to the end of the budget, or until it is asked to stop, and give the exit status.

        Args:
            loss_sum, num_terms, shape: as in `engine.train_step`.
            evaluate: the measures that are looked at while it trains; the first one is printed.
            at_end: further measures, of the finished model.
            steps: steps taken before -> the micro-batches of each step from there; None: the engine's loader's.
            export: writes the finished model into a folder.

        Raises:
            ValueError: if the data ends before the budget, or the folder holds another run.
        """
        ranks = self.engine.ranks
        with contextlib.ExitStack() as stack:
            stack.enter_context(watching_processes(ranks))
            stack.enter_context(self.saved.held(ranks))
            self._begin(stack)
            stop = stack.enter_context(StopSignals())
            batches = self.engine.training_dataloader.steps() if steps is None else None
            if steps is not None:
                batches = steps(self.counters.steps)
            if self.task.looks_first and self._progress.best is None:
                self._look(evaluate())
            for micro_batches in self._batches(batches, stack):
                late = self._is_late()
                result = self.engine.train_step(
                    micro_batches, loss_sum, num_terms, shape=shape, agree=(stop.received, late)
                )
                self._add(result)
                if self.counters.steps % self.task.eval_interval == 0 or self.fraction >= 1:
                    self._look(evaluate())
                if self._asked != StopRequest() and self.fraction < 1:
                    return self._stop()
                if self.fraction < 1:
                    self.saved.save_when_due(self.engine, asdict(self._progress))
                    self._mark = time.perf_counter()
            if export is not None:
                export(self.saved.folder / "model")
            self._finish({} if at_end is None else at_end())
        return status_after(StopRequest(), 1.0, is_first=ranks.is_first)

    def _begin(self, stack: contextlib.ExitStack) -> None:
        """Go on from the last checkpoint, if there is one, and open the log."""
        found = self.saved.resume(self.engine)
        if found is not None:
            self._progress = _Progress(**found)
        self._mark = self._started = time.perf_counter()
        if not self.engine.ranks.is_first:
            return
        keep_run_file(self.config)
        logger = RunLogger(
            self.saved.folder,
            self._start_record(),
            trackers=self.config.logging.trackers,
            project=self.config.logging.tracker_project,
            resumed=None if found is None else counter_record(self),
        )
        self._logger = stack.enter_context(logger)
        if found is not None:
            record = {"kind": "resume", "step": self.counters.steps}
            self._log({**record, "environment": self._environment()})

    def _batches(
        self, steps: Iterable[list[Any]] | None, stack: contextlib.ExitStack
    ) -> Iterator[list[Any]]:
        """The micro-batches of each step until the budget is used up."""
        assert steps is not None
        # Tqdm's None: only on a terminal.
        quiet = None if self.engine.ranks.is_first else True
        bar = stack.enter_context(
            tqdm(total=100, desc="training", unit=" %", leave=False, disable=quiet)
        )
        places = iter(steps)
        while self.fraction < 1:
            bar.update(int(100 * self.fraction) - bar.n)
            step = next(places, None)
            if step is None:
                raise ValueError(
                    f"the data ends at step {self.counters.steps} before the budget does: raise num_epochs "
                    "in the configuration"
                )
            yield step

    def _is_late(self) -> int:
        limit = self.config.training.exit_duration_in_mins
        return int(limit is not None and time.perf_counter() - self._started >= 60 * limit)

    def _add(self, result: StepResult) -> None:
        """Count a finished step."""
        self._asked = StopRequest(signal=result.agreed[0], out_of_time=bool(result.agreed[1]))
        self._progress.consumed_token += result.num_rows * result.actual_seq_length
        self._progress.losses.append(result.loss)
        self._lap("training_seconds", "all_seconds")
        if self.counters.steps % self.config.logging.log_interval == 0:
            plan = getattr(self.engine.training_dataloader, "plan", None)
            pool = {} if plan is None else {"pool_size": plan.batch.pool_size}
            self._log(
                {
                    "kind": "train",
                    "loss": result.loss,
                    "learning_rate": result.learning_rate,
                    "grad_norm": result.grad_norm,
                    "sequence_length": result.sequence_length,
                    "kept_length": result.kept_length,
                    "actual_seq_length": result.actual_seq_length,
                    **pool,
                    **counter_record(self),
                }
            )

    def _look(self, scores: Scores) -> None:
        """Log the present quality and print the published line."""
        self._lap("all_seconds")
        progress, losses = self._progress, self._progress.losses
        found = next(iter(scores.values()))
        better = max if self.task.measures[0]["higher_is_better"] else min
        progress.best = found if progress.best is None else better(progress.best, found)
        record = {
            **self._counts(),
            "epoch": self.counters.consumed_samples // self.task.size.num_samples + 1,
            "training_loss": sum(losses) / len(losses) if losses else None,
            "validation": found,
            "best_validation": progress.best,
            "kept_length": self._kept_length(),
            "learning_rate": self.engine.optimizer.param_groups[0]["lr"],
            "training_seconds": progress.training_seconds,
            "all_seconds": progress.all_seconds,
        }
        progress.losses = []
        self._log({"kind": "valid", **record, **scores, **self._costs()})
        self._last = record
        self._scores = scores
        if self.engine.ranks.is_first:
            with tqdm.external_write_mode():
                print(progress_of(record, self.task.quality, self.fraction), flush=True)

    def _stop(self) -> int:
        """Save and give the exit status of a run that is asked to stop."""
        self.saved.save(self.engine, asdict(self._progress))
        return status_after(self._asked, self.fraction, is_first=self.engine.ranks.is_first)

    def _finish(self, scores: Scores) -> None:
        """Write the end of the log in place of the checkpoints; it says that nothing is left to do."""
        last = self._last
        if self.engine.ranks.is_first:
            self._log({"kind": "valid", **last, **self._scores, **scores, **self._costs()})
            self._log({"kind": "end", "reason": "the budget", **counter_record(self)})
            self.saved.remove()
            told = "".join(f" {name} {value:.4f}" for name, value in scores.items())
            print(
                f"End of training epoch {last['epoch']} step {last['micro_batches']} "
                f"consumed_token {last['consumed_token']} best {self.task.quality} "
                f"{last['best_validation']} time {last['all_seconds'] / 3600} hr |{told} "
                f"corpus tokens {last['corpus_tokens']} layer tokens {last['layer_tokens']}",
                flush=True,
            )
        self.engine.ranks.wait()

    def _start_record(self) -> dict[str, Any]:
        size = self.task.size
        begin = begin_record(
            self.engine,
            self.config,
            num_layers=self.num_layers,
            sequence_length=size.length,
            num_samples=size.num_samples,
            environment=self._environment(),
            first_weights=self._first_weights,
            data=self.task.identity,
        )
        return {**begin, "measures": list(self.task.measures)}

    def _environment(self) -> dict[str, Any]:
        return provenance(
            engine="deepspeed" if self.config.training.deepspeed else "torch",
            num_processes=self.engine.ranks.world,
            device=self.engine.ranks.device,
        )

    def _log(self, record: Mapping[str, Any]) -> None:
        if self._logger is not None:
            self._logger.write(record)

    def _costs(self) -> dict[str, Any]:
        return {**counter_record(self), "waited": self._waiting.share()}

    def _counts(self) -> dict[str, int]:
        counters = self.counters
        return {
            "steps": counters.steps,
            "micro_batches": counters.steps * self.engine.gradient_accumulation_steps(),
            "samples": counters.consumed_samples,
            "corpus_tokens": counters.corpus_tokens,
            "layer_tokens": counters.layer_tokens,
            "consumed_token": self._progress.consumed_token,
        }

    def _kept_length(self) -> int:
        """Positions of a whole row that a dropping layer saw in the last step."""
        router, length = self.engine.random_ltd_scheduler, self.task.size.length
        if router is None or router.settings.random_ltd is None:
            return length
        return min(length, router.kept_length(max(0, self.counters.steps - 1), length))

    def _lap(self, *names: str) -> None:
        """Add the time since the last call to some of the progress's seconds."""
        now = time.perf_counter()
        for name in names:
            setattr(self._progress, name, getattr(self._progress, name) + now - self._mark)
        self._mark = now


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


def ready(config: AnyRun) -> AnyRun:
    """The settings with folder and batch sizes written out, once the run's processes know each other."""
    ranks = start_ranks(timeout_minutes=config.training.distributed_timeout_minutes)
    return with_folder(with_batch_size(config, ranks.data_parallel_size), ranks)


@contextmanager
def process_group() -> Iterator[None]:
    """Leave the run's process group at the end; say which process was lost, if one was."""
    with naming_lost_processes():
        try:
            yield
        finally:
            leave_ranks()
