"""What a finetuning run has consumed, when it is over, and its learning rate: pure functions.

`consumed_token` is the published count: rows x the layer-averaged length of a row, rounded down. Its
neighbours say what it hides: random-LTD reads more corpus tokens for the same count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from data_efficiency import RunPlan, StepShape, actual_seq_length, layer_tokens

Unit = Literal["consumed_token", "layer_tokens", "steps"]
Decay = Literal["constant", "linear", "thirds"]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Exact counts of a run up to the end of a step, over all processes."""

    steps: int = 0
    """Optimizer steps: global batches."""
    micro_batches: int = 0
    """Of one process; what the published quick recipe prints as "step"."""
    samples: int = 0
    corpus_tokens: int = 0
    layer_tokens: int = 0
    consumed_token: int = 0

    def after(
        self, shape: StepShape, *, num_layers: int, samples: int, micro_batches: int
    ) -> "Totals":
        """The totals once a global batch of `shape` is trained on."""
        return Totals(
            steps=self.steps + 1,
            micro_batches=self.micro_batches + micro_batches,
            samples=self.samples + samples,
            corpus_tokens=self.corpus_tokens + shape.num_rows * shape.sequence_length,
            layer_tokens=self.layer_tokens + layer_tokens(shape, num_layers),
            consumed_token=self.consumed_token
            + shape.num_rows * actual_seq_length(shape, num_layers),
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a run is over: a count, and how much of it."""

    unit: Unit
    amount: int

    def spent(self, totals: Totals) -> int:
        """How much of it is used up."""
        count: int = getattr(totals, self.unit)
        return count

    def fraction(self, totals: Totals) -> float:
        """The part that is used up; 1 or more at the end."""
        return self.spent(totals) / self.amount


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up by optimizer steps, then a decay by the part of the budget that is used up.

    Example:
        >>> rate = LearningRate(peak=8.0, decay="linear", warmup_steps=2)
        >>> [rate.at(step, fraction) for step, fraction in ((0, 0.0), (1, 0.1), (2, 0.5), (9, 1.0))]
        [4.0, 7.2, 4.0, 0.0]
        >>> LearningRate(peak=1.0, decay="thirds").at(5, 0.4)
        0.1
    """

    peak: float
    decay: Decay = "constant"
    """linear: to 0 at the end; thirds: a tenth after each third of the budget."""
    warmup_steps: int = 0

    def at(self, step: int, fraction: float) -> float:
        """The rate of the step after `step` finished ones that used up `fraction` of the budget."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay == "linear":
            return self.peak * warm * max(0.0, 1.0 - fraction)
        if self.decay == "thirds":
            return self.peak * warm * 0.1 ** int(3 * min(fraction, 0.999))
        return self.peak * warm


def planned_totals(plan: RunPlan, micro_batches: int) -> Iterator[Totals]:
    """The totals after each step of a plan, by the functions that training itself counts with."""
    totals = Totals()
    for stretch in plan.stretches:
        for _ in range(stretch.num_steps):
            totals = totals.after(
                stretch.shape,
                num_layers=plan.model.num_layers,
                samples=plan.full_batch.num_rows,
                micro_batches=micro_batches,
            )
            yield totals


def kept_length(engine: Any, step: int, length: int) -> int:
    """Positions of a row that a dropping layer sees after `step` finished steps."""
    router = engine.random_ltd_scheduler
    return length if router is None else min(length, router.kept_length(step, length))
