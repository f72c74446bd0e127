"""The one place that knows which tokens the present forward pass keeps."""

import sys
from collections.abc import Mapping

import torch

from data_efficiency.routing.token_ops import sample_kept_positions
from data_efficiency.schedule import Schedule


class Router:
    """Draws the subsets of all dropping layers at the start of a training forward.

    Args:
        schedule: step (from 0) -> kept length.
        num_layers: layers that drop tokens.
        seed: of the subsets.
    """

    def __init__(self, schedule: Schedule, num_layers: int, seed: int) -> None:
        self.schedule = schedule
        self.num_layers = num_layers
        self.seed = seed
        self.positions: torch.Tensor | None = None
        """int64 [num_layers, num_rows, kept_length]; None while nothing is dropped."""
        self.num_rows = 0
        self.sequence_length = 0
        self._place: tuple[int, int] | None = None
        self._step = 0

    def kept_length(self, step: int) -> int:
        """Tokens that a dropping layer sees at `step`; a shorter sequence is kept whole.

        Raises:
            ValueError: if the schedule gives less than 1.
        """
        kept = self.schedule.difficulty(step)
        if kept < 1:
            raise ValueError(
                f"the random-LTD schedule gives {kept} tokens at step {step}: at least 1"
            )
        return kept

    def set_position(self, step: int, first_row: int) -> None:
        """Says where the next training forward stands; to be called before each of them.

        Args:
            step: optimizer steps finished, from 0.
            first_row: number of the forward's first row in the global batch.
        """
        if step < 0 or first_row < 0:
            raise ValueError(f"step is {step}, first_row {first_row}: must not be negative")
        self._place = (step, first_row)
        self._step = step

    def get_current_seq(self) -> int:
        """Published name: the kept length of the step that `set_position` named last."""
        return self.kept_length(self._step)

    def update_seq(self, global_steps: int) -> None:
        """Nothing: DeepSpeed's engine calls this published name; `set_position` has said it all."""

    def state_dict(self) -> dict[str, int]:
        """Nothing to save: subsets are a function of seed, step, row and layer. Published name."""
        return {}

    def load_state_dict(self, saved: Mapping[str, int]) -> None:
        """Nothing to load. Published name."""

    def begin_forward(self, num_rows: int, sequence_length: int, device: torch.device) -> None:
        """Draws the subsets of a training forward, if there is anything to drop.

        Raises:
            RuntimeError: if `set_position` was not called since the last training forward.
        """
        if self._place is None:
            raise RuntimeError(
                "random-LTD does not know the position of this training forward: call "
                "router.set_position(step, first_row) before each one (engines do), or model.eval()"
            )
        (step, first_row), self._place = self._place, None
        self.num_rows, self.sequence_length = num_rows, sequence_length
        kept = self.kept_length(step)
        if kept >= sequence_length:
            self.positions = None
            return
        self.positions = sample_kept_positions(
            seed=self.seed,
            step=step,
            first_row=first_row,
            num_rows=num_rows,
            num_layers=self.num_layers,
            sequence_length=sequence_length,
            kept_length=kept,
            device=device,
        )
        # Code compiled once then serves every kept length; nothing to do where no compiler is loaded.
        if "torch._dynamo" in sys.modules:
            sys.modules["torch._dynamo"].maybe_mark_dynamic(self.positions, 2)

    def keep_everything(self) -> None:
        """Ends dropping until the next training forward."""
        self.positions = None
