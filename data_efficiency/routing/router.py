"""The one place that knows which tokens the present forward pass keeps."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data_efficiency.accounting import StepShape
from data_efficiency.compat import PublishedRouterNames
from data_efficiency.config import RandomLTDConfig
from data_efficiency.routing.draw_memory import DrawMemory, KeptDraw
from data_efficiency.routing.proof import Proofs
from data_efficiency.routing.token_ops import sample_kept_positions


class Router(PublishedRouterNames):
    """Draws the subsets of all dropping layers once in a training forward.

    Engines and callbacks call `set_position` before each training forward; hooks at the model call
    `begin_forward` and `end_forward`; layers read `draw`.
    """

    def __init__(self, settings: RandomLTDConfig) -> None:
        self.settings = settings
        self.draw = KeptDraw()
        """The last forward's."""
        self.in_forward = False
        """Whether the model's forward runs; a layer that is called else is being recomputed."""
        self.is_dropping = False
        """Whether the last forward was a training one."""
        self.shape_is_told = False
        """Whether the model's arguments told the last training forward's sequence length."""
        self.shape_is_final = False
        """Whether a layer has seen the shape that was drawn for."""
        self.proof_is_due = False
        """Whether the last training forward may drop in sequences longer than its layers are proved for."""
        self.proofs = Proofs(tuple(sorted(settings.random_ltd_layer_id)), settings.always_keep)
        self.layers: list[Any] = []
        """What stands around each layer."""
        self.memory = DrawMemory()
        self._place: tuple[int, int, int | None] | None = None
        self._drawing_place: tuple[int, int, int | None] | None = None
        self._step = 0

    @property
    def positions(self) -> torch.Tensor | None:
        """int64 [num_layers, num_rows, kept_length] of the last forward; None: nothing dropped."""
        return self.draw.positions

    def kept_length(self, step: int, sequence_length: int | None = None) -> int:
        """Tokens that a dropping layer sees at `step`; a shorter sequence is kept whole.

        Args:
            step: optimizer steps finished, from 0.
            sequence_length: needed where the schedule is in percent of it.

        Raises:
            ValueError: if the schedule gives less than 1 or less than the positions always kept, or
                is in percent and no length is given.
        """
        value = self.settings.schedule.difficulty(step)
        if self.settings.kept_length_unit == "percent":
            if sequence_length is None:
                raise ValueError("the random-LTD schedule is in percent: sequence_length is needed")
            value = max(1, value * sequence_length // 100)
        least = max(1, len(self.settings.always_keep))
        if value < least:
            raise ValueError(
                f"the random-LTD schedule gives {value} tokens at step {step}: at least {least}"
            )
        return value

    def set_position(self, step: int, first_row: int, num_samples: int | None = None) -> None:
        """Says where the next training forward stands; to be called before each of them.

        Args:
            step: optimizer steps finished, from 0.
            first_row: number of the forward's first sample in the global batch.
            num_samples: samples of this forward, where a sample may become several rows (as
                `seqlen_reshape` makes them); None: each row is a sample.
        """
        if step < 0 or first_row < 0 or (num_samples is not None and num_samples < 1):
            raise ValueError(
                f"step is {step}, first_row {first_row}, num_samples {num_samples}: must not be "
                "negative, nor num_samples 0"
            )
        self._place = (step, first_row, num_samples)
        self._step = step

    def get_current_seq(self) -> int:
        """Published name: the kept length of the step that `set_position` named last."""
        return self.kept_length(self._step, self.draw.sequence_length or None)

    def begin_forward(
        self, num_rows: int, sequence_length: int, device: torch.device | None
    ) -> None:
        """Draws the subsets of a training forward, if there is anything to drop.

        Args:
            num_rows: as far as the model's arguments tell.
            sequence_length: likewise; 0 where they do not. The first layer may correct both.

        Raises:
            RuntimeError: if `set_position` was not called since the last training forward.
        """
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "the model's whole forward is recomputed in a backward: random-LTD cannot tell which "
                "forward that is; checkpoint the layers, not the model"
            )
        if self._place is None:
            raise RuntimeError(
                "random-LTD does not know the position of this training forward: call "
                "router.set_position(step, first_row) before each one (engines do), or model.eval()"
            )
        self._drawing_place, self._place = self._place, None
        self.memory.forget_the_gone()
        for layer in self.layers:
            layer.was_called = False
        self.shape_is_final = False
        self.in_forward = self.is_dropping = True
        self.draw = KeptDraw(num_rows=num_rows)
        self.proof_is_due = any(layer.needs_proof(1) for layer in self.layers)
        self.shape_is_told = bool(sequence_length)
        if self.shape_is_told:
            self._draw(num_rows, sequence_length, device)

    def correct_shape(
        self, num_rows: int, sequence_length: int, device: torch.device, layer: str = "a layer"
    ) -> None:
        """Draws again for the shape that the first layer really sees.

        Args:
            layer: class of the layer that sees it.

        Raises:
            ValueError: if an earlier layer of this forward saw another shape, the shape looks as if batch
                and sequence were interchanged, or as if processes shared a sequence.
        """
        draw = self.draw
        seen = f"a layer got hidden states of {num_rows} rows of {sequence_length} tokens"
        if sequence_length == draw.num_rows != num_rows:
            raise ValueError(
                f"{seen}, but the model {draw.num_rows} rows: check hidden_state_order (the layer is a "
                f"{layer})"
            )
        if self.shape_is_final:
            raise ValueError(
                f"{seen}, but the forward's first one {draw.num_rows} rows of {draw.sequence_length} "
                "tokens: random-LTD needs one length in all its layers; convert one part of the model, "
                f"such as its text tower, by itself (the layer is a {layer})"
            )
        if _is_a_share(sequence_length, draw.sequence_length):
            raise ValueError(
                f"{seen}, but the model rows of {draw.sequence_length}: processes seem to share each row "
                f"(sequence parallelism), which random-LTD cannot be composed with (the layer is a {layer})"
            )
        self.shape_is_final = True
        self._draw(num_rows, sequence_length, device)

    def remember(self, draw: KeptDraw, *hidden_states: Any) -> None:
        """Notes whose hidden states these are, for layers that are recomputed."""
        self.shape_is_final = True
        for tensor in hidden_states:
            if isinstance(tensor, torch.Tensor):
                self.memory.remember(tensor, draw)

    def recall(
        self, hidden_states: torch.Tensor, *, needed: bool, compiled: bool
    ) -> KeptDraw | None:
        """The draw of a layer called outside a forward, as `DrawMemory.recall`.

        Raises:
            RuntimeError: if the forward is the one that `set_position` announced.
        """
        if needed and self._place is not None and torch._C._current_graph_task_id() == -1:
            raise RuntimeError(
                "a layer with random-LTD was called, but not the model that was converted: call the model "
                "itself instead of its forward(), which runs no hooks, or convert the wrapper that does so"
            )
        return self.memory.recall(hidden_states, needed=needed, compiled=compiled)

    def end_forward(self, *_: Any) -> None:
        """Says that the model's forward is over: what calls a layer from here on recomputes it."""
        self.in_forward = False

    def keep_everything(self) -> None:
        """Begins a forward that drops nothing."""
        self.draw = KeptDraw()
        self.in_forward, self.is_dropping = True, False

    def state_dict(self) -> dict[str, Any]:
        """Nothing but what DeepSpeed's own checkpoints ask for: subsets have no state."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave: there is nothing to take."""

    def last_shape(self) -> StepShape | None:
        """Rows, length and kept length of the last training forward; None if its length is not known."""
        if not self.is_dropping or not self.draw.sequence_length:
            return None
        positions = self.draw.positions
        return StepShape(
            num_rows=self.draw.num_rows,
            sequence_length=self.draw.sequence_length,
            num_dropping_layers=self.settings.random_ltd_layer_num,
            kept_length=None if positions is None else positions.shape[2],
        )

    def _draw(self, num_rows: int, sequence_length: int, device: torch.device | None) -> None:
        assert self._drawing_place is not None
        step, first_sample, num_samples = self._drawing_place
        kept = self.kept_length(step, sequence_length)
        first_row = first_sample if num_samples is None else first_sample * num_rows // num_samples
        positions = None
        if kept < sequence_length:
            self._check_always_kept(sequence_length)
            positions = sample_kept_positions(
                seed=self.settings.seed,
                step=step,
                rows=range(first_row, first_row + num_rows),
                num_layers=self.settings.random_ltd_layer_num,
                sequence_length=sequence_length,
                kept_length=kept,
                device=torch.device("cpu") if device is None else device,
                always_kept=self.settings.always_keep,
            )
            # Code compiled once serves every kept length; nothing to do where no compiler is loaded.
            if "torch._dynamo" in sys.modules:
                sys.modules["torch._dynamo"].maybe_mark_dynamic(positions, 2)
        self.proof_is_due = kept < sequence_length and any(
            layer.needs_proof(sequence_length) for layer in self.layers
        )
        sizes = np.empty((num_rows, sequence_length, 0))
        self.draw = KeptDraw(positions, num_rows, sequence_length, (step, first_row), sizes)

    def _check_always_kept(self, sequence_length: int) -> None:
        if max(self.settings.always_keep, default=0) >= sequence_length:
            raise ValueError(
                f"always_keep is {list(self.settings.always_keep)}, but the sequence has "
                f"{sequence_length} tokens: each must be below that"
            )


def _is_a_share(length: int, told: int) -> bool:
    """Whether a row of `told` tokens may be split evenly between processes into parts of `length`."""
    if told <= length or told % length or not torch.distributed.is_available():
        return False
    if not torch.distributed.is_initialized():
        return False
    return torch.distributed.get_world_size() % (told // length) == 0
