"""A run in progress: what it is made of and what it has counted."""

import contextlib
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data_efficiency import Counters, CurriculumDataLoader, Engine, ModelShape, StepResult
from megatron.config import ModelConfig, RunConfig
from megatron.model.compilation import num_compilations
from megatron.reporting import WaitingTime
from megatron.weight_average import WeightAverage

Batch = Mapping[str, torch.Tensor]
Int64Array = NDArray[np.int64]


def model_shape(config: ModelConfig) -> ModelShape:
    """What the number of operations depends on."""
    return ModelShape(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        query_size=config.hidden_size,
        key_value_size=config.kv_heads * config.head_size,
        ffn_size=config.ffn_size,
        num_ffn_matrices=3 if config.swiglu else 2,
        vocab_size=config.padded_vocab_size,
    )


def numbers_outside_layers(config: ModelConfig) -> int:
    """Numbers in the embeddings, and in an output matrix of its own."""
    rows = config.padded_vocab_size * (1 + config.untie_embeddings_and_output_weights)
    rows += 0 if config.use_rotary_position_embeddings else config.max_position_embeddings
    return (rows + config.num_token_types) * config.hidden_size


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an entry script brings: a model, its data, and its losses."""

    make_model: Callable[[RunConfig], torch.nn.Module]
    make_datasets: Callable[[RunConfig], tuple[Any, Any]]
    """Training and validation dataset; None for the second where nothing is to be validated."""
    losses: tuple[str, ...]
    """Names of the losses whose sum is minimized. The first one's terms are tokens: they are the run's
    loss tokens, and by it runs are compared."""
    forward_step: Callable[[Engine, Batch], Sequence[torch.Tensor]]
    """(engine, batch) -> the sum of each loss, fp32 scalars."""
    count_loss_terms: Callable[[Batch], Sequence[int]]
    """Over how many terms each of these sums is; 0 is allowed."""
    layer_class: type[torch.nn.Module]
    """The layers that random-LTD may be attached to."""
    bytes_of_tokens: Callable[[RunConfig], Int64Array | None] = lambda _: None
    """How many bytes of text each token id stands for, int64 [at least the vocabulary], where every label
    is a token of a text; None where that is not known."""
    make_shape: Callable[[ModelConfig], ModelShape] = model_shape
    """What the model's number of operations depends on."""


@dataclass(frozen=True, kw_only=True)
class StopRequest:
    """Why a process wants to stop, if it does."""

    signal: int = 0
    """Number of the signal that was received; 0 for none."""
    out_of_time: bool = False


class Saving(Protocol):
    """A checkpoint that is being written."""

    @property
    def is_written(self) -> bool:
        """Whether this process has nothing left to write of it."""

    def finish(self, *, keep_last: int) -> Any:
        """Complete it, and remove all but so many; all processes must call it."""


@dataclass(kw_only=True)
class Run:
    """A run in progress: what the loop works with. What is counted stands in the engine."""

    config: RunConfig
    task: Task
    engine: Engine
    valid_dataset: Any
    """None where nothing is validated."""
    bytes_of_tokens: Int64Array | None = None
    """The task's."""
    began: float = field(default_factory=time.monotonic)
    """When this process had set it up, by the monotonic clock: what is loaded and compiled after that is its time, too."""
    seconds: float = 0.0
    """Training time so far, without evaluation and checkpoints."""
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds of this process that went into something else than steps: start_up, evaluation, checkpoints."""
    compiled_before: int = field(default_factory=num_compilations)
    """Pieces of code that this process had compiled before the run."""
    stage_starts: tuple[int, ...] = ()
    """The first step of each stage; empty where the run has none."""
    average: WeightAverage | None = None
    """Of the weights, where the settings ask for one."""
    first_weights: str = ""
    """Checksum of the weights that training begins with."""
    waiting: WaitingTime = field(default_factory=WaitingTime)
    """How much this process had to wait for a core."""
    stop_request: StopRequest = field(default_factory=StopRequest)
    """What all processes agreed on at the end of the last step."""
    saving: Saving | None = None
    """The checkpoint that is being written while training goes on."""
    before_save: Callable[[], None] = field(default=lambda: None)
    """Raises BlockingIOError if the folder that is saved to has become another run's."""

    @property
    def counters(self) -> Counters:
        """Of all finished steps."""
        return self.engine.counters

    @property
    def loader(self) -> CurriculumDataLoader:
        """What the training samples come from."""
        assert self.engine.training_dataloader is not None
        return self.engine.training_dataloader

    @property
    def is_writing(self) -> bool:
        """Whether this process is at work on a checkpoint in the background."""
        return self.saving is not None and not self.saving.is_written

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.config.model.num_layers

    @property
    def stage(self) -> int:
        """The stage of the last finished step, from 1 on; 0 before it, and where there is none."""
        return bisect_right(self.stage_starts, self.counters.steps)

    def follow_weights(self, result: StepResult) -> None:
        """Take the weights of a finished step into their average, where one is kept."""
        if self.average is not None and not result.skipped:
            self.average.update(self.engine)

    def loss_sums(self, batch: Batch) -> dict[str, torch.Tensor]:
        """A micro-batch's summed losses by name."""
        return dict(zip(self.task.losses, self.task.forward_step(self.engine, batch), strict=True))

    def loss_terms(self, batch: Batch) -> dict[str, int]:
        """Over how many terms each of these sums is."""
        return dict(zip(self.task.losses, self.task.count_loss_terms(batch), strict=True))

    @property
    def num_compilations(self) -> int:
        """Pieces of code that were compiled for this run."""
        return num_compilations() - self.compiled_before

    @contextlib.contextmanager
    def timed(self, spent_on: str) -> Iterator[None]:
        """Note the seconds that the block takes."""
        started = time.monotonic()
        yield
        self.spent[spent_on] = self.spent.get(spent_on, 0.0) + time.monotonic() - started

    @property
    def is_first_process(self) -> bool:
        """Whether this process prints, logs and writes checkpoints for all."""
        return self.engine.ranks.is_first

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        if self.is_first_process:
            # Nobody may be left to read it: that is no reason to lose the run.
            with contextlib.suppress(OSError):
                # In one piece, or what a signal raises comes between a line and its end.
                print(text + "\n", end="", flush=True)

    def tokens(self) -> float:
        """Tokens so far by the counter that budgets and learning rate follow."""
        return self.counters.at(self.config.training.token_counter, self.num_layers)
