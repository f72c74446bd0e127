"""What becomes of a step whose losses or gradients are no finite numbers: refused, or skipped where float16 may recover."""

from collections.abc import Mapping

from data_efficiency.engine.step import MAX_SKIPPED_UPDATES, NonFiniteError, refuse_non_finite
from data_efficiency.json_section import Section


class Overflows:
    """Which overflows a training lives with.

    Args:
        float16: the JSON section `fp16`.
    """

    def __init__(self, float16: Section) -> None:
        self.may_happen = bool(float16.take("enabled", False))
        """Whether gradients are float16 ones, below a loss scale."""
        self._scale_stays = self.may_happen and bool(float16.take("loss_scale", 0))
        self._skipped_in_a_row = 0

    def refuse(self, step: int, losses: Mapping[str, float], grad_norm: float | None) -> None:
        """Raise NonFiniteError for what is no finite number, unless a loss scale may cure it."""
        if not self.may_happen:
            refuse_non_finite(step, losses, grad_norm)

    def note_update(self, step: int, *, skipped: bool) -> None:
        """Take note of a finished step.

        Raises:
            NonFiniteError: for too many overflows in a row that no loss scale can cure.
        """
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._scale_stays and self._skipped_in_a_row >= MAX_SKIPPED_UPDATES:
            raise NonFiniteError(
                f"step {step}: the float16 gradients of {MAX_SKIPPED_UPDATES} steps in a "
                "row overflowed at a constant loss scale: lower fp16.loss_scale or the learning rate, or "
                "train in bf16; if the weights are no finite numbers, go back to an earlier checkpoint"
            )
