"""The learning rate as a pure function of one counter: steps, samples or tokens."""

import math
from dataclasses import dataclass
from typing import Literal

from megatron.config import TrainingConfig, require

Clock = Literal["iters", "samples", "tokens"]


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up, then a decay, both measured by one clock.

    The rate of a step follows the clock's value after all finished steps. The warm-up looks one
    step's nominal share ahead, so that its first step learns too. Nothing is stored: a resumed run
    and one that was never stopped agree.

    Example:
        >>> rate = LearningRate(
        ...     peak=1.0, minimum=0.0, style="linear", clock="iters", warmup=2, decay=4, share=1
        ... )
        >>> [rate.at(finished_steps) for finished_steps in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    peak: float
    minimum: float
    style: Literal["cosine", "linear", "constant", "inverse-square-root"]
    clock: Clock
    """What the values below, and the argument of `at`, count."""
    warmup: int
    decay: int
    """Where the minimum is reached."""
    share: int
    """What one step adds to the clock when nothing is truncated or dropped; how far the warm-up looks
    ahead. With 0 it does not, and the first step's rate is 0."""

    def at(self, finished: float) -> float:
        """The rate of the step after `finished`, 0 at the start, was counted."""
        if finished < self.warmup:
            return self.peak * min(1.0, (finished + self.share) / self.warmup)
        if self.style == "constant":
            return self.peak
        if finished >= self.decay:
            return self.minimum
        if self.style == "inverse-square-root":
            start = max(self.warmup, self.share)
            return max(self.minimum, self.peak * math.sqrt(start / max(finished, start)))
        progress = (finished - self.warmup) / (self.decay - self.warmup)
        if self.style == "linear":
            remaining = 1.0 - progress
        else:
            remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.minimum + (self.peak - self.minimum) * remaining


def make_learning_rate(config: TrainingConfig, seq_length: int) -> LearningRate:
    """The learning rate that the settings describe.

    The clock is that of the decay length, or else of the training length, tokens before samples
    before steps. A decay length that is not given is the training length.

    Raises:
        ValueError: for a warm-up on another clock than the decay, or as long as it.
    """
    clocks: tuple[Clock, ...] = ("tokens", "samples", "iters")
    decays = {clock: getattr(config, f"lr_decay_{clock}") for clock in clocks}
    lengths = {clock: getattr(config, f"train_{clock}") for clock in clocks}
    chosen = decays if any(decays.values()) else lengths
    clock = next(name for name in clocks if chosen[name] is not None)
    decay = chosen[clock]
    for other in clocks:
        value = getattr(config, f"lr_warmup_{other}")
        require(
            other == clock or value == 0,
            f"lr_warmup_{other}",
            value,
            f"the learning rate decays by {clock}; give --lr-warmup-{clock}",
        )
    warmup = getattr(config, f"lr_warmup_{clock}")
    require(
        0 <= warmup < decay or config.lr_decay_style == "constant",
        f"lr_warmup_{clock}",
        warmup,
        f"must be at least 0 and below the decay's end ({decay})",
    )
    shares = {"iters": 1, "samples": config.batch_size, "tokens": config.batch_size * seq_length}
    return LearningRate(
        peak=config.lr,
        minimum=config.min_lr,
        style=config.lr_decay_style,
        clock=clock,
        warmup=warmup,
        decay=decay,
        share=shares[clock],
    )
