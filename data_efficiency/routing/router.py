"""The one place that knows which tokens and rows the present forward pass keeps."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data_efficiency.accounting import IGNORED_LABEL, SkippedRows, StepShape
from data_efficiency.compat import PublishedRouterNames
from data_efficiency.config import RoutingConfig
from data_efficiency.routing.draw_memory import DrawMemory, KeptDraw
from data_efficiency.routing.proof import Proofs
from data_efficiency.routing.span import Span
from data_efficiency.routing.token_ops import (
    chance_of_keeping,
    sample_kept_positions,
    sample_kept_rows,
    widest,
)


class Router(PublishedRouterNames):
    """Draws the subsets of all layers once in a training forward.

    Engines and callbacks call `set_position` before each training forward; hooks at the model call
    `begin_forward` and `end_forward`; layers read `draw`.
    """

    def __init__(self, settings: RoutingConfig) -> None:
        self.settings = settings
        """Closed by the model."""
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
        dropping = settings.random_ltd
        self.proofs = Proofs(() if dropping is None else dropping.always_keep)
        subsets = () if dropping is None else dropping.subsets
        self.spans = tuple(Span(number, layers) for number, layers in enumerate(subsets))
        self.gets_bags = False
        """Whether the coming forward is given bags of tokens. Said with its position: compiled code that looked at the
        step would be compiled for each."""
        self.layers: list[Any] = []
        """What stands around each layer."""
        self.memory = DrawMemory()
        self._place: tuple[int, int, int | None] | None = None
        self._drawing_place: tuple[int, int, int | None] | None = None
        self._step = 0
        self._labels: torch.Tensor | None = None

    @property
    def positions(self) -> torch.Tensor | None:
        """int64 [num_subsets, num_rows, kept_length] of the last forward; None: no token dropped."""
        return self.draw.positions

    def kept_length(self, step: int, sequence_length: int | None = None) -> int:
        """Tokens that a dropping layer sees at `step`, as `RandomLTDConfig.kept_length`.

        The sequence length, where it is given, at a step that keeps everything.
        """
        dropping = self.settings.random_ltd
        if dropping is None or self.settings.is_full(step):
            if sequence_length is None:
                raise ValueError("every token is kept: sequence_length is needed")
            return sequence_length
        return self.settings.shared_evenly(dropping.kept_length(step, sequence_length))

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
        superposition = self.settings.token_superposition
        self.gets_bags = superposition is not None and superposition.tokens_per_position(step) > 1

    def get_current_seq(self) -> int:
        """Published name: the kept length of the step that `set_position` named last."""
        return self.kept_length(self._step, self.draw.sequence_length or None)

    @property
    def needs_labels(self) -> bool:
        """Whether the subsets follow the labels that the model is given."""
        dropping = self.settings.random_ltd
        return dropping is not None and dropping.always_keep_labelled

    def begin_forward(
        self,
        num_rows: int,
        sequence_length: int,
        device: torch.device | None,
        labels: torch.Tensor | None = None,
    ) -> None:
        """Draws the subsets of a training forward, if there is anything to drop.

        Args:
            num_rows: as far as the model's arguments tell.
            sequence_length: likewise; 0 where they do not. The first layer may correct both.
            labels: [num_rows, sequence_length], where `needs_labels`.

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
        for span in self.spans:
            span.close()
        self._labels = labels
        self.shape_is_final = False
        self.in_forward = self.is_dropping = True
        self._hold(KeptDraw(num_rows=num_rows))
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
        self._hold(KeptDraw())
        self.in_forward, self.is_dropping = True, False

    def state_dict(self) -> dict[str, Any]:
        """Nothing but what DeepSpeed's own checkpoints ask for: subsets have no state."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave: there is nothing to take."""

    def last_shape(self) -> StepShape | None:
        """What the layers saw in the last training forward; None if its length is not known."""
        draw = self.draw
        if not self.is_dropping or not draw.sequence_length or draw.place is None:
            return None
        return self.settings.shape(draw.place[0], draw.num_rows, draw.sequence_length)

    def skipping_rows(self, num_rows: int) -> tuple[SkippedRows, ...]:
        """What of so many first rows of the last training forward skipped layers."""
        dropping = self.settings.random_ltd
        drops = () if dropping is None else dropping.random_ltd_layer_id
        return tuple(
            SkippedRows(num_layers=1, num_rows=skipping, drops_tokens=layer in drops)
            for layer, kept in enumerate(self.draw.rows)
            if kept is not None and (skipping := num_rows - int((kept < num_rows).sum()))
        )

    def _draw(self, num_rows: int, sequence_length: int, device: torch.device | None) -> None:
        assert self._drawing_place is not None
        step, first_sample, num_samples = self._drawing_place
        device = torch.device("cpu") if device is None else device
        first_row = first_sample if num_samples is None else first_sample * num_rows // num_samples
        rows = range(first_row, first_row + num_rows)
        positions, token_scale = self._draw_positions(step, rows, sequence_length, device)
        kept_rows, row_scale = self._draw_rows(step, rows, device)
        self.proof_is_due = (
            positions is not None
            and any(layer.needs_proof(sequence_length) for layer in self.layers)
        ) or (bool(kept_rows) and any(layer.needs_proof_for_rows() for layer in self.layers))
        draw = KeptDraw(
            positions=positions,
            token_scale=token_scale,
            rows=kept_rows,
            row_scale=row_scale,
            num_rows=num_rows,
            sequence_length=sequence_length,
            place=(step, first_row),
            sizes=np.empty((num_rows, sequence_length, 0)),
        )
        self._hold(draw)

    def _hold(self, draw: KeptDraw) -> None:
        """Go on with a draw; what each layer reads of it for itself is given to it."""
        self.draw = draw
        for layer in self.layers:
            layer.rows, layer.row_scale = draw.rows_of(layer.layer_id)

    def _draw_positions(
        self, step: int, rows: range, sequence_length: int, device: torch.device
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The kept positions, and what changes of their tokens are multiplied by; None: all, and 1."""
        dropping = self.settings.random_ltd
        kept = self.settings.kept_length(step, sequence_length)
        if dropping is None or kept is None:
            return None, None
        preferred = self._labelled(len(rows), sequence_length, device)
        positions = sample_kept_positions(
            seed=dropping.seed,
            step=step,
            rows=rows,
            num_layers=len(self.spans),
            sequence_length=sequence_length,
            kept_length=kept,
            device=device,
            always_kept=dropping.always_keep,
            preferred=preferred,
        )
        _mark_dynamic(positions, 2)
        if dropping.residual_scale == "none":
            return positions, None
        if dropping.residual_scale == "length_ratio":
            ratio, shape = sequence_length / kept, (len(self.spans), 1, 1, 1)
            return positions, torch.full(shape, ratio, device=device, dtype=widest(device))
        chance = chance_of_keeping(
            kept_length=kept,
            sequence_length=sequence_length,
            always_kept=dropping.always_keep,
            preferred=preferred,
            device=device,
        )
        scale = 1 / chance.expand(len(self.spans), len(rows), -1).gather(2, positions)
        _mark_dynamic(scale, 2)
        return positions, scale.unsqueeze(-1)

    def _draw_rows(
        self, step: int, rows: range, device: torch.device
    ) -> tuple[tuple[torch.Tensor | None, ...], tuple[torch.Tensor | None, ...]]:
        """For each layer the rows that do not skip it, and what their changes are multiplied by."""
        dropout, kept = self.settings.layer_dropout, self.settings.kept_rows(step)
        if dropout is None or not kept:
            return (), ()
        size, num_groups = dropout.rows_per_group, self.settings.num_groups(len(rows))
        first_group = self._first_group(rows, size)
        chosen = sample_kept_rows(
            seed=dropout.seed,
            step=step,
            groups=range(first_group, first_group + num_groups),
            rows_per_group=size,
            kept=kept,
            device=device,
        )
        skips = [number < size for number in kept]
        for one in chosen:
            _mark_dynamic(one, 0)
        is_scaled = dropout.residual_scale == "inverse_keep"
        return (
            tuple(one if skip else None for one, skip in zip(chosen, skips, strict=True)),
            tuple(
                torch.full((), size / number, device=device, dtype=widest(device))
                if skip and is_scaled
                else None
                for number, skip in zip(kept, skips, strict=True)
            ),
        )

    def _first_group(self, rows: range, size: int) -> int:
        """Number in the global batch of the forward's first group of rows."""
        if rows.start % size:
            raise ValueError(
                f"layer_dropout.rows_per_group is {size}, but this forward begins with row {rows.start} of the global "
                "batch: must begin with a group; change rows_per_group or the micro-batch"
            )
        return rows.start // size

    def _labelled(
        self, num_rows: int, sequence_length: int, device: torch.device
    ) -> torch.Tensor | None:
        """Which positions have a label in the loss, bool [num_rows, sequence_length]; None where that is no matter."""
        if not self.needs_labels:
            return None
        labels = self._labels
        if labels is None or tuple(labels.shape) != (num_rows, sequence_length):
            found = "none" if labels is None else f"some of shape {tuple(labels.shape)}"
            raise ValueError(
                f"always_keep_labelled is true, and the model was given as labels {found}: needs one for each of "
                f"{num_rows} x {sequence_length} positions; give the model its labels, or switch it off"
            )
        return (labels != IGNORED_LABEL).to(device)


def _mark_dynamic(tensor: torch.Tensor, axis: int) -> None:
    """Let code compiled once serve every size; nothing to do where no compiler is loaded."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].maybe_mark_dynamic(tensor, axis)


def _is_a_share(length: int, told: int) -> bool:
    """Whether a row of `told` tokens may be split between processes into parts of `length`, one token apart at most."""
    if told <= length or not torch.distributed.is_available():
        return False
    if not torch.distributed.is_initialized():
        return False
    world = torch.distributed.get_world_size()
    sizes = (size for size in range(2, world + 1) if world % size == 0)
    return any(length in (told // size, -(-told // size)) for size in sizes)
