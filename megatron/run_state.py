"""A run in progress: what it is made of and what it has counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data_efficiency import Counters, ModelShape
from megatron.config import ModelConfig, RunConfig
from megatron.optimizer_param_scheduler import LearningRate
from megatron.step_totals import StopRequest

Batch = Mapping[str, torch.Tensor]


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


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an entry script brings: a model, its data, and its losses."""

    make_model: Callable[[RunConfig], torch.nn.Module]
    make_datasets: Callable[[RunConfig], tuple[Any, Any]]
    """Training and validation dataset."""
    losses: tuple[str, ...]
    """Names of the losses whose sum is minimized. The first one's terms are tokens: they are the run's
    loss tokens, and by it runs are compared."""
    forward_step: Callable[[Any, Batch], Sequence[torch.Tensor]]
    """(engine, batch) -> the sum of each loss, fp32 scalars."""
    count_loss_terms: Callable[[Batch], Sequence[int]]
    """Over how many terms each of these sums is; 0 is allowed."""
    layer_class: type[torch.nn.Module]
    """The layers that random-LTD may be attached to."""
    make_shape: Callable[[ModelConfig], ModelShape] = model_shape
    """What the model's number of operations depends on."""


@dataclass(kw_only=True)
class Run:
    """A run in progress: what the loop works with and what it counts."""

    config: RunConfig
    task: Task
    engine: Any
    learning_rate: LearningRate
    shape: ModelShape
    num_dropping_layers: int
    valid_dataset: Any
    counters: Counters = field(default_factory=Counters)
    seconds: float = 0.0
    """Training time so far, without evaluation and checkpoints."""
    stop_request: StopRequest = field(default_factory=StopRequest)
    """What all processes agreed on at the end of the last step."""

    @property
    def is_first_process(self) -> bool:
        """Whether this process prints, logs and writes checkpoints for all."""
        return bool(self.engine.global_rank == 0)

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        if self.is_first_process:
            print(text, flush=True)

    def tokens(self) -> float:
        """Tokens so far by the counter that budgets and learning rate follow."""
        return self.counters.tokens(self.config.training.token_counter, self.shape.num_layers)

    def clock_value(self) -> float:
        """The learning rate's clock after all finished steps."""
        values = {
            "iters": self.counters.steps,
            "samples": self.counters.consumed_samples,
            "tokens": self.tokens(),
        }
        return values[self.learning_rate.clock]


def counter_record(run: Run) -> dict[str, Any]:
    """The cumulative counters as the log writes them."""
    counters = run.counters
    return {
        "step": counters.steps,
        "consumed_samples": counters.consumed_samples,
        "corpus_tokens": counters.corpus_tokens,
        "loss_tokens": counters.loss_tokens,
        "layer_tokens": counters.layer_tokens,
        "effective_tokens": counters.tokens("effective", run.shape.num_layers),
        "flops": counters.flops,
        "seconds": run.seconds,
    }
