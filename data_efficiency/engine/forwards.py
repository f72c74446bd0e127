"""The training forwards of the present step: each told where it stands, and what its layers saw remembered."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data_efficiency.accounting import LearningRate, StepShape
from data_efficiency.config import Config
from data_efficiency.engine.carried_out import (
    refuse_idle,
    refuse_ignored_windows,
    refuse_unscaled_rate,
)
from data_efficiency.engine.position import Position
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.row_values import RowValues
from data_efficiency.engine.step import shape_of_forward
from data_efficiency.sampling.sequence_length import map_tensors, windows_of


class Forwards(Position):
    """The forwards of an engine: it calls `_place_forward` before each in training, `_note_forward` after it."""

    module: torch.nn.Module
    learning_rate: LearningRate | None
    """What the engine sets the optimizer's rates by; None: somebody else does."""

    def _begin(self, config: Config, ranks: Ranks) -> None:
        super()._begin(config, ranks)
        self.learning_rate = None
        self._shapes: list[StepShape] = []
        """Of this process's forwards in the present step."""
        self._num_filling = 0
        """Rows of these that only filled micro-batches up."""
        self._row_values = RowValues()

    def note_rows(self, values: torch.Tensor) -> None:
        """Note a value of each row of the present micro-batch, such as its mean loss, where its loss is formed.

        `train_step` gives the whole global batch's in its result, and data_sampling.feedback follows them.

        Args:
            values: [rows], floating; no gradient flows through them.
        """
        self._row_values.note(values)

    def _seed_dropout(self, micro_batch: int) -> None:
        """Make what dropout draws a function of seed, step and micro-batch alone."""
        number = self._number_in_step(micro_batch)
        source = [self.data_efficiency_config.seed, self.counters.steps, number]
        if self.ranks.tensor_parallel_size > 1:
            # What is dropped is each process's own: tokens between layers, heads within.
            source.append(self.ranks.tensor_parallel_rank)
        torch.manual_seed(int(np.random.SeedSequence(source).generate_state(1, np.uint64)[0]))

    def _moved(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A forward's arguments on the engine's device, as DistributedDataParallel moves them."""
        if self.ranks.device.type == "cpu":
            return args, kwargs
        moved: tuple[tuple[Any, ...], dict[str, Any]] = map_tensors((args, kwargs), self._to_device)
        return moved

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.ranks.device, non_blocking=True)

    def _place_forward(self) -> None:
        """Tell token dropping which rows of the global batch the coming micro-batch has.

        Raises:
            ConfigError: if the JSON switches something on that this training does not carry out.
        """
        refuse_idle(
            self.data_efficiency_config,
            self.random_ltd_scheduler,
            self.training_dataloader,
            self.counters.steps,
        )
        if self.learning_rate is None:
            refuse_unscaled_rate(self.data_efficiency_config)
        if self.random_ltd_scheduler is None:
            return
        number = self._number_in_step(self.micro_steps % self._accumulation)
        rows = self._micro_batch_size
        self.random_ltd_scheduler.set_position(self.counters.steps, number * rows, num_samples=rows)

    def _note_forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Remember rows and length of a training forward."""
        self._shapes.append(
            shape_of_forward(self.random_ltd_scheduler, args, kwargs, self._tokens_per_position)
        )
        loader = self.training_dataloader
        if loader is not None and loader.plan is not None:
            plans, accepted = loader.sampler.config.length_plans, loader.plan.batch.difficulties
            refuse_ignored_windows(windows_of(plans, accepted), self.module, kwargs)

    def _forget_forwards(self) -> None:
        """Begin another step."""
        self._shapes, self._num_filling = [], 0
        self._row_values.clear()
