"""What a training loop may ask of an engine, whichever it is, and an engine of a token router."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from data_efficiency.accounting import Counters, LearningRate, ModelShape, SkippedRows, StepShape
from data_efficiency.config import Config, DataEfficiencyConfig, RoutingConfig
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.step import StepResult
from data_efficiency.engine.whole_tensor import WholeTensor
from data_efficiency.sampling.loader import CurriculumDataLoader

Named = Mapping[str, Any]
"""Loss -> its tensor, or its number of terms."""


class TokenRouter(Protocol):
    """What an engine asks of a token router."""

    settings: RoutingConfig
    """Closed by the model."""

    def set_position(self, step: int, first_row: int, num_samples: int | None = None) -> None:
        """Say which step, and which sample of the global batch, the next forward starts at."""

    def last_shape(self) -> StepShape | None:
        """Rows and lengths of the last training forward, as the layers saw them."""

    def skipping_rows(self, num_rows: int) -> tuple[SkippedRows, ...]:
        """What of so many first rows of the last training forward skipped layers."""


class Engine(Protocol):
    """A model in training on any number of processes; made by `initialize`."""

    module: torch.nn.Module
    optimizer: Any
    training_dataloader: CurriculumDataLoader | None
    ranks: Ranks
    json_config: Config
    counters: Counters
    """Of all finished steps, the same on every process."""
    model_shape: ModelShape | None
    learning_rate: LearningRate | None
    skipped_steps: int
    """Steps whose float16 gradients overflowed: their samples are consumed, weights unchanged."""

    @property
    def data_efficiency_config(self) -> DataEfficiencyConfig:
        """Our section of the JSON file, parsed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result; in training one micro-batch of the present step."""

    def train_step(
        self,
        micro_batches: Sequence[Any],
        loss_sums: Callable[[Any], torch.Tensor | Named],
        num_terms: Callable[[Any], int | Named],
        *,
        shape: Callable[[Any], tuple[int, int]] | None = None,
        agree: Sequence[int] = (),
    ) -> StepResult:
        """Train on one global batch; see `EngineBase.train_step`."""

    def note_rows(self, values: torch.Tensor) -> None:
        """Note a value of each row of the present micro-batch; see `EngineBase.note_rows`."""

    def rehearse(
        self,
        micro_batches: Sequence[Any],
        loss_sums: Callable[[Any], torch.Tensor | Named],
        num_terms: Callable[[Any], int | Named],
        step: int,
    ) -> None:
        """Go forward and backward as in `step`, and leave nothing of it."""

    def follow_learning_rate(self, rate: LearningRate) -> None:
        """Set each step's rate by a function of the counters from now on."""

    def train_batch_size(self) -> int:
        """Samples of a step, over all processes."""

    def train_micro_batch_size_per_gpu(self) -> int:
        """Samples of a forward pass."""

    def gradient_accumulation_steps(self) -> int:
        """Forward passes of a step on this process."""

    def train(self, mode: bool = True) -> Any:
        """Go to training, or evaluation."""

    def eval(self) -> Any:
        """Go to evaluation: nothing is dropped or skipped, nothing is counted."""

    def progress_state(self) -> dict[str, Any]:
        """Counters, the loader's position and schedules, as plain JSON data."""

    def load_progress_state(self, saved: Mapping[str, Any]) -> None:
        """Go to a saved progress."""

    def whole_weights(self) -> list[WholeTensor]:
        """Weights and buffers by plain names, in the precision that the optimizer updates."""

    def load_whole_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `whole_weights` announces."""

    def whole_optimizer_state(self) -> list[WholeTensor]:
        """The optimizer's tensors as `<weight>.<name of the state>`."""

    def load_whole_optimizer_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `whole_optimizer_state` announces."""
