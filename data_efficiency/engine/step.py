"""What one step of training comes to on all processes together: losses, lengths and counts.

Before the first forward the number of terms of each loss is summed over the processes, so that each
micro-batch's share of the global batch's mean is known. After the last backward, and before the
optimizer, losses and counts travel together. All processes then hold the same values, so their
learning rates, budgets and stops cannot disagree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_efficiency.accounting import (
    Counters,
    ModelShape,
    StepShape,
    layer_tokens,
    training_flops,
)
from data_efficiency.config import WINDOWS
from data_efficiency.engine.ranks import Ranks, float_bits, floats_of
from data_efficiency.token_names import rows_and_length

MAX_SKIPPED_UPDATES = 10
"""With a constant float16 loss scale, so many updates skipped in a row end the training."""


class NonFiniteError(ValueError):
    """A loss or a gradient is no finite number; weights and counters are those before the step."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One finished step, the same on every process."""

    losses: Mapping[str, float]
    """Each loss: its sum over the global batch divided by its number of terms there."""
    num_terms: Mapping[str, int]
    """Over how many terms of the global batch each loss is the mean."""
    counters: Counters
    """Of the whole run up to here."""
    num_rows: int
    """Rows of the global batch, after reshaping."""
    sequence_length: int
    """Mean over the rows, rounded down: micro-batches whose padding was trimmed differ in theirs."""
    kept_length: int | None
    """As `sequence_length`, in the layers that drop; None where no layer does."""
    actual_seq_length: int
    """Mean over rows and layers, rounded down."""
    learning_rate: float
    """Of the first parameter group in this step."""
    grad_norm: float | None
    """Of the whole gradient before clipping; None where the engine does not tell."""
    skipped: bool
    """Whether float16 gradients overflowed, so that the samples are consumed and the weights unchanged."""
    row_values: NDArray[np.float64] | None
    """[rows of the global batch]: what `note_rows` was given; None where it was not."""
    attended_share: float | None
    """Pairs of tokens that attention computes in layers that drop nothing, of those of rows that are one document each;
    None where nothing tells documents."""
    agreed: tuple[int, ...]
    """The largest of all processes' `agree` values, in their order."""

    @property
    def loss(self) -> float:
        """What was minimized: the sum of the losses."""
        return sum(self.losses.values())


@dataclass(frozen=True, kw_only=True)
class StepTotals:
    """What a step adds, summed over the processes."""

    loss_sums: tuple[float, ...]
    row_values: NDArray[np.float64]
    """[rows noted], in the order of the global batch."""
    num_rows: int
    num_positions: int
    """Of all rows, in a layer that drops nothing."""
    added: Counters
    dropping_tokens: int
    """Of the layer tokens, those of the layers that drop."""
    document_pairs: int
    """Pairs that meet inside documents in a layer; 0 where nothing tells documents."""
    row_pairs: int
    """Pairs of the same rows as one document each."""
    agreed: tuple[int, ...]

    @property
    def sequence_length(self) -> int:
        """Mean over the rows, rounded down."""
        return self.num_positions // max(1, self.num_rows)

    def kept_length(self, num_dropping_layers: int) -> int | None:
        """Mean over the rows in layers that drop, rounded down; None where no layer does."""
        if not num_dropping_layers:
            return None
        return self.dropping_tokens // (num_dropping_layers * max(1, self.num_rows))

    @property
    def attended_share(self) -> float | None:
        """Of the pairs of whole rows, those inside documents; None where nothing tells documents."""
        return self.document_pairs / self.row_pairs if self.row_pairs else None

    def actual_seq_length(self, num_layers: int) -> int:
        """Mean over rows and layers, rounded down."""
        return self.added.layer_tokens // (num_layers * max(1, self.num_rows))


def reduce_step(  # noqa: PLR0913 - one collective carries all
    ranks: Ranks,
    shapes: Sequence[StepShape],
    *,
    num_layers: int,
    model_shape: ModelShape | None,
    num_samples: int,
    num_filling: int = 0,
    loss_tokens: int = 0,
    loss_sums: Sequence[float] = (),
    agree: Sequence[int] = (),
    row_values: Sequence[float] = (),
) -> StepTotals:
    """The totals of a step, by one collective.

    Args:
        ranks: this process among all.
        shapes: of this process's forwards.
        num_layers: of the model.
        model_shape: what FLOPs are counted by; None counts none.
        num_samples: of the global batch, the same on every process.
        num_filling: of this process's, those that only fill it up.
        loss_tokens: of the global batch, the same on every process.
        loss_sums: this process's sum of each loss.
        agree: integers of which every process gets the largest.
        row_values: of this process's rows; as many on every process.
    """
    of_forwards = [_counts(shape, num_layers, model_shape) for shape in shapes]
    counts = [sum(column) for column in zip(*of_forwards, strict=True)] or [0] * _NUM_COUNTS
    counts.append(num_filling)
    # Rows of processes; columns of counts, then wishes, then losses, then rows' values.
    table = ranks.table([*counts, *agree, *map(float_bits, [*loss_sums, *row_values])])
    first_loss = len(counts) + len(agree)
    first_value = first_loss + len(loss_sums)
    trained = ranks.data_parallel(table)
    # As Python's integers: the operations of a step on thousands of processes have more than 63 bits.
    summed = [sum(column) for column in zip(*trained[:, : len(counts)].tolist(), strict=True)]
    num_rows, num_positions, corpus, layer, dropping_tokens, flops, *pairs, filling = summed
    return StepTotals(
        loss_sums=tuple(floats_of(trained[:, first_loss:first_value]).sum(axis=0).tolist()),
        row_values=floats_of(trained[:, first_value:]).flatten(),
        num_rows=num_rows,
        num_positions=num_positions,
        added=Counters(
            steps=1,
            consumed_samples=num_samples - filling,
            corpus_tokens=corpus,
            loss_tokens=loss_tokens,
            layer_tokens=layer,
            flops=flops,
        ),
        dropping_tokens=dropping_tokens,
        document_pairs=pairs[0],
        row_pairs=pairs[1],
        agreed=tuple(table[:, len(counts) : first_loss].max(axis=0, initial=0).tolist()),
    )


_NUM_COUNTS = 8


def _counts(shape: StepShape, num_layers: int, model_shape: ModelShape | None) -> tuple[int, ...]:
    """What a forward adds to a step: rows, positions, corpus tokens, layer tokens and those of the layers that drop,
    FLOPs, pairs inside documents and pairs of the rows as one document each.
    """
    rows, positions = shape.num_rows, shape.num_rows * shape.sequence_length
    return (
        rows,
        positions,
        positions * shape.tokens_per_position,
        layer_tokens(shape, num_layers),
        rows * shape.num_dropping_layers * shape.dropped_sequence_length,
        0 if model_shape is None else training_flops(shape, model_shape),
        shape.document_pairs or 0,
        0 if shape.document_pairs is None else rows * shape.attended_pairs,
    )


def shape_of_forward(
    router: Any, args: Sequence[Any], kwargs: Mapping[str, Any], tokens_per_position: int = 1
) -> StepShape:
    """Rows and length of the training forward just done, as the layers saw them if they tell.

    Args:
        router: the model's token router; None: no layer drops.
        args, kwargs: of the model's forward.
        tokens_per_position: of the forward; above 1 tokens come in bags.
    """
    shape: StepShape | None = None if router is None else router.last_shape()
    if shape is None:
        num_rows, length = rows_and_length(args, kwargs, has_bags=tokens_per_position > 1)
        shape = StepShape(num_rows=num_rows, sequence_length=length)
    shape = replace(shape, tokens_per_position=tokens_per_position)
    windows = {name: kwargs[name] for name in WINDOWS if kwargs.get(name) is not None}
    window = min(windows.values(), default=shape.sequence_length)
    if window < shape.sequence_length:
        slides = "sliding_window" in windows
        shape = replace(shape, attention_window=window, window_slides=slides)
    documents = kwargs.get("document_ids")
    if documents is None:
        return shape
    return replace(shape, document_pairs=pairs_in_documents(documents, shape))


def pairs_in_documents(document_ids: Any, shape: StepShape) -> int:
    """The `attended_pairs` of all rows together where attention stays inside documents.

    Args:
        document_ids: int64 tensor [rows, length], rising along a row.
        shape: what else limits attention.
    """
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    window = shape.attention_window or shape.sequence_length
    if not shape.window_slides:
        begins[:, ::window] = True
    starts = begins.flatten().nonzero().squeeze(1).cpu()
    lengths = torch.diff(starts, append=torch.tensor([begins.numel()]))
    if not shape.window_slides:
        return int((lengths**2).sum())
    near = lengths.clamp(max=window)
    return int((2 * (lengths * near - near * (near - 1) // 2) - lengths).sum())


def mean_losses(sums: Sequence[float], num_terms: Sequence[int]) -> list[float]:
    """Each sum divided by its number of terms; 0 where there are none."""
    return [total / max(1, terms) for total, terms in zip(sums, num_terms, strict=True)]


def mean_losses_over(ranks: Ranks, sums: Sequence[float], num_terms: Sequence[int]) -> list[float]:
    """The mean of each loss over all processes, each given its own sums and numbers of terms."""
    table = ranks.data_parallel(ranks.table([*map(float_bits, sums), *num_terms]))
    totals = floats_of(table[:, : len(sums)]).sum(axis=0)
    return mean_losses(totals.tolist(), table[:, len(sums) :].sum(axis=0).tolist())


def named(values: Any) -> dict[str, Any]:
    """Losses, or their numbers of terms, by name; a single one is called "loss"."""
    return dict(values) if isinstance(values, Mapping) else {"loss": values}


def refuse_non_finite(step: int, losses: Mapping[str, float], grad_norm: float | None) -> None:
    """Raise NonFiniteError unless all are finite numbers.

    Args:
        step: number of the step, from 1.
        losses: of the step.
        grad_norm: None where it is not known.
    """
    bad = [
        f"the loss {name!r} is {loss}" for name, loss in losses.items() if not math.isfinite(loss)
    ]
    if grad_norm is not None and not math.isfinite(grad_norm):
        bad.append(f"the gradient's norm is {grad_norm}")
    if bad:
        raise NonFiniteError(
            f"step {step}: {' and '.join(bad)}; the step was not taken: go on from the last "
            "checkpoint with a lower learning rate, or with another seed if the data may be at fault"
        )
