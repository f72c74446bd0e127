"""The factor that keeps float16 gradients from vanishing, as a function of which steps overflowed."""

from collections.abc import Mapping
from typing import Any

from data_efficiency.json_section import ConfigError, Section


class LossScale:
    """A loss scale that halves after overflows and doubles after a while without.

    Args:
        initial: the first factor.
        window: it doubles after this many steps, and one, without an overflow; 0 keeps it for ever.
        hysteresis: overflows in a row of the window before it halves.
        minimum: it never falls below this.

    Source: DeepSpeed's dynamic loss scaler (the JSON section `fp16`), without
    `consecutive_hysteresis`.

    Example:
        >>> scale = LossScale(initial=8.0, window=2, hysteresis=1, minimum=1.0)
        >>> values = []
        >>> for overflow in (False, True, False, False, False):
        ...     scale.update(overflow)
        ...     values.append(scale.value)
        >>> values
        [8.0, 4.0, 4.0, 4.0, 8.0]
    """

    def __init__(self, *, initial: float, window: int, hysteresis: int, minimum: float) -> None:
        self.value = initial
        self._window, self._hysteresis, self._minimum = window, hysteresis, minimum
        self._tolerated = hysteresis
        self._since_overflow = -1

    def update(self, overflow: bool) -> None:
        """Takes note of a finished step.

        Raises:
            ValueError: if a step overflowed although the scale can fall no further.
        """
        if not self._window:
            return
        if overflow:
            self._since_overflow = -1
            if self._tolerated > 1:
                self._tolerated -= 1
                return
            if self.value <= self._minimum:
                raise ValueError(
                    f"the gradients overflow at the smallest loss scale ({self._minimum:g}): lower "
                    "the learning rate, or train in bf16"
                )
            self.value = max(self.value / 2, self._minimum)
            return
        self._since_overflow += 1
        if self._since_overflow and self._since_overflow % self._window == 0:
            self._tolerated = self._hysteresis
            self.value *= 2

    def state_dict(self) -> dict[str, float | int]:
        """Plain JSON data."""
        return {
            "value": self.value,
            "tolerated": self._tolerated,
            "since_overflow": self._since_overflow,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes to a saved state."""
        self.value = float(saved["value"])
        self._tolerated = int(saved["tolerated"])
        self._since_overflow = int(saved["since_overflow"])


def loss_scale_of(section: Section) -> LossScale | None:
    """The loss scale that the JSON section `fp16` describes; None if it is off or absent.

    Raises:
        ConfigError: for a key that is unknown or would be ignored.
    """
    enabled = section.boolean("enabled", False)
    section.boolean("auto_cast", False)
    static = section.number("loss_scale", 0.0, at_least=0.0)
    power = section.integer("initial_scale_power", 16, at_least=0)
    window = section.integer("loss_scale_window", 1000, at_least=1)
    hysteresis = section.integer("hysteresis", 2, at_least=1)
    minimum = section.number("min_loss_scale", 1.0, at_least=0.0)
    for name in ("consecutive_hysteresis", "fp16_master_weights_and_grads"):
        if section.boolean(name, False):
            raise ConfigError(f"{section.path}.{name} is true: only DeepSpeed's engine has it")
    section.close()
    if not enabled:
        return None
    if static:
        return LossScale(initial=static, window=0, hysteresis=1, minimum=static)
    return LossScale(initial=2.0**power, window=window, hysteresis=hysteresis, minimum=minimum)
