"""Exact integers of what was really computed, the clocks made of them, and the rate that follows one.

Three token counts are kept apart, since curricula and token dropping change each one differently:

- corpus tokens: input positions given to the model, after any truncation; padding is among them,
  unless it was trimmed; where a position stands for a bag of tokens, all of them;
- loss tokens: positions whose label is in the loss: for BERT those that were masked;
- layer tokens: the sum over layers of the positions that the layer processed, padding among them.

Effective tokens are layer tokens divided by layers. A worked example: 2 rows of 8 tokens through 4
layers, the middle 2 of which keep 3 tokens of each row: 16 corpus tokens, 2 x (2 x 8 + 2 x 3) = 44
layer tokens, 11 effective tokens; the layer-averaged length is floor(22 / 4) = 5. If moreover 1 of the 2 rows
skips the last layer, these are 8 layer tokens fewer: 36.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

TokenCounter = Literal["corpus", "loss", "effective"]
IGNORED_LABEL = -100
"""Label of a position that is not in the loss."""
Clock = Literal["steps", "samples", "corpus", "loss", "effective", "layer"]
"""What budgets and learning rates may follow: steps, samples, or one of the token counts."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What the number of operations depends on; `vocab_size` counts the rows really multiplied."""

    num_layers: int
    hidden_size: int
    query_size: int
    key_value_size: int
    ffn_size: int
    num_ffn_matrices: int
    vocab_size: int
    masked_lm_head: bool = False
    """Whether the output is computed at the labelled positions alone, behind one hidden x hidden map."""


@dataclass(frozen=True, kw_only=True)
class SkippedRows:
    """Rows that skip layers, of the rows that a forward pass saw."""

    num_layers: int
    """That so many rows skip, each."""
    num_rows: int
    drops_tokens: bool
    """Whether these layers drop tokens of the other rows, too."""


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """Rows and lengths that one forward pass saw."""

    num_rows: int
    sequence_length: int
    num_dropping_layers: int = 0
    kept_length: int | None = None
    """None: no token was dropped."""
    skipped: tuple[SkippedRows, ...] = ()
    """Empty: every row went through every layer."""
    tokens_per_position: int = 1
    """Tokens that were read for a position: more than 1 in the bags of token superposition."""
    num_labels: int | None = None
    """Positions of all rows whose label is in the loss; None: all positions."""
    attention_window: int | None = None
    """Positions of the window that attention is limited to; None: it is not."""
    window_slides: bool = False
    """Whether each token has a window of its own, which ends with it; else windows are blocks side by side."""
    document_pairs: int | None = None
    """Of all rows together, the `attended_pairs` where attention stays inside documents (and the window);
    None: it goes over whole rows."""

    @property
    def attended_pairs(self) -> int:
        """Pairs of a query and a key of one row whose scores a layer computes, but for causality.

        Of causal attention it is twice the pairs that may look at each other, less those of a token with itself.

        Example:
            >>> rows = StepShape(num_rows=1, sequence_length=5)
            >>> windows = replace(rows, attention_window=2)
            >>> rows.attended_pairs, windows.attended_pairs, replace(windows, window_slides=True).attended_pairs
            (25, 9, 13)
        """
        length = self.sequence_length
        window = min(self.attention_window or length, length)
        if self.window_slides:
            return 2 * (length * window - window * (window - 1) // 2) - length
        return length // window * window**2 + (length % window) ** 2

    def pairs_in(self, num_rows: int, length: int) -> int:
        """Those of so many of the rows in a layer that sees `length` positions of each.

        The tokens that a dropping layer keeps are taken to lie evenly in windows and documents.
        """
        share, square = length**2, self.sequence_length**2
        if self.document_pairs is None:
            return num_rows * (self.attended_pairs * share // square)
        return self.document_pairs * num_rows * share // (self.num_rows * square)

    @property
    def dropped_sequence_length(self) -> int:
        """Positions of a row that a dropping layer processes."""
        if self.kept_length is None:
            return self.sequence_length
        return min(self.kept_length, self.sequence_length)

    @property
    def skipped_by_length(self) -> dict[int, int]:
        """Length of a row in a layer -> rows of such a length that all layers skip together."""
        found: dict[int, int] = {}
        for part in self.skipped:
            length = self.dropped_sequence_length if part.drops_tokens else self.sequence_length
            found[length] = found.get(length, 0) + part.num_layers * part.num_rows
        return found


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Totals of a run up to the end of a step."""

    steps: int = 0
    consumed_samples: int = 0
    corpus_tokens: int = 0
    loss_tokens: int = 0
    layer_tokens: int = 0
    flops: int = 0

    def plus(self, other: "Counters") -> "Counters":
        """The field-wise sum."""
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return replace(self, **total)

    def at(self, clock: Clock, num_layers: int) -> float:
        """The clock's value after these steps; effective tokens may be a fraction.

        Example:
            >>> Counters(steps=3, layer_tokens=44).at("effective", num_layers=4)
            11.0
        """
        values = {
            "steps": self.steps,
            "samples": self.consumed_samples,
            "corpus": self.corpus_tokens,
            "loss": self.loss_tokens,
            "layer": self.layer_tokens,
        }
        return self.layer_tokens / num_layers if clock == "effective" else values[clock]


_REMAINING: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "exponential": lambda progress: 2.0 * 0.5**progress - 1.0,
    "minus_sqrt": lambda progress: 1.0 - math.sqrt(progress),
}
"""Shape of a decay -> what is left of peak - minimum, 1 to 0, along its way."""


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up, then a decay, both measured by one clock.

    The rate of a step follows the clock's value after all finished steps. Nothing is stored: a resumed
    run and one that was never stopped agree, and so do all ranks, since they agree on the counters.

    Example:
        >>> rate = LearningRate(
        ...     peak=1.0, minimum=0.0, style="linear", clock="steps", warmup=2, decay=4, share=1
        ... )
        >>> [rate.at(finished_steps) for finished_steps in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
        >>> thirds = replace(rate, style="thirds", warmup=0, decay=9)
        >>> [round(thirds.at(step), 3) for step in (0, 3, 6, 9)]
        [1.0, 0.1, 0.01, 0.01]
        >>> stable = replace(rate, style="WSD", decay=8, anneal=4, anneal_style="linear")
        >>> [stable.at(step) for step in (3, 4, 5, 6, 7, 8)]
        [1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
        >>> larger = replace(rate, style="constant", factors=((0, 1.0), (3, 1.5)))
        >>> [larger.at(step) for step in (2, 3)]
        [1.0, 1.5]

    Source: warm-up, stable, decay as in MiniCPM (Hu et al., arXiv 2404.06395, section 4); its four shapes are
    Megatron-LM's `--lr-wsd-decay-style`.
    """

    peak: float
    minimum: float
    style: Literal["cosine", "linear", "constant", "inverse-square-root", "thirds", "WSD"]
    """The decay; thirds: a tenth after each third of the way; WSD: none, until `anneal` before the end."""
    clock: Clock
    """What the values below, and the argument of `at`, count."""
    warmup: int
    decay: int
    """Where the minimum is reached."""
    share: int
    """What one step adds to the clock when nothing is truncated or dropped; how far the warm-up looks
    ahead. With 0 it does not, and the first step's rate is 0."""
    anneal: int = 0
    """Of WSD: how long before `decay` the rate begins to fall."""
    anneal_style: Literal["exponential", "linear", "cosine", "minus_sqrt"] = "exponential"
    """Of WSD: how it falls."""
    relative: bool = False
    """Whether the rate is a factor of each parameter group's own, instead of the rate of all groups."""
    factors: tuple[tuple[float, float], ...] = ()
    """From which value of the clock on the rate, warm-up and minimum too, is multiplied by which number; ascending."""

    def at(self, finished: float) -> float:
        """The rate of the step after `finished`, 0 at the start, was counted."""
        factor = next((one for begin, one in reversed(self.factors) if begin <= finished), 1.0)
        return factor * self._shape_at(finished)

    def _shape_at(self, finished: float) -> float:
        if finished < self.warmup:
            return self.peak * min(1.0, (finished + self.share) / self.warmup)
        if self.style == "constant":
            return self.peak
        if self.style == "thirds":
            return max(self.minimum, self.peak * 0.1 ** min(2, int(3 * finished / self.decay)))
        if finished >= self.decay:
            return self.minimum
        if self.style == "inverse-square-root":
            start = max(self.warmup, self.share)
            return max(self.minimum, self.peak * math.sqrt(start / max(finished, start)))
        start, style = self.warmup, str(self.style)
        if style == "WSD":
            start, style = self.decay - self.anneal, self.anneal_style
            if finished <= start:
                return self.peak
        progress = (finished - start) / (self.decay - start)
        return self.minimum + (self.peak - self.minimum) * _REMAINING[style](progress)


def layer_tokens(shape: StepShape, num_layers: int) -> int:
    """Positions processed by all layers together in one forward pass.

    Example:
        >>> rows = StepShape(
        ...     num_rows=2, sequence_length=8, num_dropping_layers=2, kept_length=3
        ... )
        >>> layer_tokens(rows, num_layers=4)
        44
    """
    full_layers = num_layers - shape.num_dropping_layers
    in_row = full_layers * shape.sequence_length
    in_row += shape.num_dropping_layers * shape.dropped_sequence_length
    skipped = sum(length * rows for length, rows in shape.skipped_by_length.items())
    return shape.num_rows * in_row - skipped


def actual_seq_length(shape: StepShape, num_layers: int) -> int:
    """The layer-averaged length of a row, rounded down.

    Source: the `actual_seq_length` of the published training loop,
    floor((length * (layers - dropping layers) + kept * dropping layers) / layers).
    """
    return layer_tokens(shape, num_layers) // (num_layers * shape.num_rows)


def training_flops(shape: StepShape, model: ModelShape) -> int:
    """Floating-point operations of the model's forward and backward pass over some rows.

    Multiplications and additions of the matrix products only, the backward pass counted as twice
    the forward pass, attention as the full square of the length, or of each window or document in it, recomputation not
    counted, nor what is computed once a row (BERT's pooler).

    Source: the model FLOPs of Narayanan et al. 2021 (arXiv 2104.04473), section 5.1.
    """
    full_layers = model.num_layers - shape.num_dropping_layers
    rows, length, kept = shape.num_rows, shape.sequence_length, shape.dropped_sequence_length
    forward = full_layers * _layer_flops(shape, rows, length, model)
    forward += shape.num_dropping_layers * _layer_flops(shape, rows, kept, model)
    for seen, skipping in shape.skipped_by_length.items():
        forward -= _layer_flops(shape, skipping, seen, model)
    return 3 * (forward + _output_flops(shape, model))


def _output_flops(shape: StepShape, model: ModelShape) -> int:
    """Operations of the output's forward pass over all rows."""
    num_positions = shape.num_rows * shape.sequence_length
    if not model.masked_lm_head:
        return 2 * num_positions * model.hidden_size * model.vocab_size
    if shape.num_labels is not None:
        num_positions = shape.num_labels
    return 2 * num_positions * model.hidden_size * (model.vocab_size + model.hidden_size)


def _layer_flops(shape: StepShape, num_rows: int, length: int, model: ModelShape) -> int:
    """Operations of one layer's forward pass over so many of the rows, `length` positions of each."""
    projections = model.hidden_size * (2 * model.query_size + 2 * model.key_value_size)
    feed_forward = model.num_ffn_matrices * model.hidden_size * model.ffn_size
    attention = 2 * shape.pairs_in(num_rows, length) * model.query_size
    return 2 * (num_rows * length * (projections + feed_forward) + attention)
