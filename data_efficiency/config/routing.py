"""The kinds of routing that a JSON file can switch on, and what they come to together at a step."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from data_efficiency.accounting import SkippedRows, StepShape
from data_efficiency.config.layer_dropout import LayerDropoutConfig, read_layer_dropout
from data_efficiency.config.random_ltd import RandomLTDConfig, read_random_ltd
from data_efficiency.config.superposition import SuperpositionConfig, read_superposition
from data_efficiency.json_section import ConfigError, Section


class Route(NamedTuple):
    """A kind of routing."""

    read: Callable[[Section, int], Any]
    """Section of the JSON file, seed -> the settings; None where it is off."""
    in_layers: bool = True
    """Whether layers take it; else rows that are read are changed."""


ROUTES: Mapping[str, Route] = {
    "random_ltd": Route(read_random_ltd),
    "layer_dropout": Route(read_layer_dropout),
    "token_superposition": Route(read_superposition, in_layers=False),
}
"""Section of `data_routing`, and field of `DataEfficiencyConfig` and, in layers, of `RoutingConfig` -> what it is."""


@dataclass(frozen=True, kw_only=True)
class DataRoutingKeys:
    """`data_efficiency.data_routing`."""

    enabled: bool = False
    """Must agree with the switches inside; alone it has no effect."""
    full_from_step: int | None = None
    """Steps finished from which on every layer processes all tokens of all rows, whatever the schedules say: the
    final full phase of every route. Not given: the schedules alone say it."""
    random_ltd: Section
    """Random layerwise token dropping, also in spans of layers, see below."""
    layer_dropout: Section
    """Rows that skip layers, see below."""
    token_superposition: Section
    """Positions that stand for bags of tokens in the first steps, see below."""


@dataclass(frozen=True, kw_only=True)
class RoutingConfig:
    """All routes of a model, of which everything is known: what each layer processes at each step."""

    num_layers: int
    """Of the model."""
    random_ltd: RandomLTDConfig | None = None
    layer_dropout: LayerDropoutConfig | None = None
    full_from_step: int | None = None
    token_superposition: SuperpositionConfig | None = None
    """For which layers do nothing, but positions are bags of tokens."""
    row_shares: int = 1
    """Processes that share each row (tensor parallelism): kept lengths are rounded up to a multiple of it."""

    def refuse_layers(self) -> None:
        """Raise ConfigError for routes through layers that the model does not have."""
        dropping = self.random_ltd
        if dropping is not None and dropping.total_layer_num != self.num_layers:
            raise ConfigError(
                f"random_ltd.total_layer_num is {dropping.total_layer_num}, but the model has "
                f"{self.num_layers} layers"
            )
        if self.layer_dropout is not None:
            self.layer_dropout.refuse_layers(self.num_layers)

    @property
    def skipped_layers(self) -> tuple[int, ...]:
        """Layers that rows may skip at some step."""
        dropout = self.layer_dropout
        if dropout is None:
            return ()
        layers = dropout.layer_id or range(self.num_layers)
        # In linear depth the first layer never is one.
        return tuple(layer for layer in layers if layer or dropout.depth == "uniform")

    def is_full(self, step: int) -> bool:
        """Whether `step` belongs to the final phase that computes everything; steps finished, from 0."""
        return self.full_from_step is not None and step >= self.full_from_step

    def kept_length(self, step: int, sequence_length: int | None = None) -> int | None:
        """As `RandomLTDConfig.kept_length`, shared evenly; None where no layer drops tokens at `step`.

        Raises:
            ConfigError: if tokens are dropped from rows that do not reach up to the positions always kept.
        """
        if self.random_ltd is None or self.is_full(step):
            return None
        kept = self.shared_evenly(self.random_ltd.kept_length(step, sequence_length))
        if sequence_length is None:
            return kept
        if kept >= sequence_length:
            return None
        always_keep = self.random_ltd.always_keep
        if max(always_keep, default=0) >= sequence_length:
            raise ConfigError(
                f"always_keep is {list(always_keep)}, but the sequence has "
                f"{sequence_length} tokens: each must be below that"
            )
        return kept

    def shared_evenly(self, kept_length: int) -> int:
        """The kept length, or the next one that the processes of a row share evenly."""
        return -(-kept_length // self.row_shares) * self.row_shares

    def kept_rows(self, step: int) -> tuple[int, ...]:
        """Rows of a group that each layer processes; empty where none is skipped at `step`."""
        dropout = self.layer_dropout
        if dropout is None or self.is_full(step):
            return ()
        layers = range(self.num_layers)
        kept = tuple(dropout.kept_rows(step, layer, self.num_layers) for layer in layers)
        return kept if min(kept) < dropout.rows_per_group else ()

    def shape(self, step: int, num_rows: int, sequence_length: int) -> StepShape:
        """What a forward of so many rows gives the layers at `step`; steps finished, from 0.

        Raises:
            ConfigError: if the rows are no whole number of groups, while some skip layers.
        """
        dropping = self.random_ltd
        kept_length = self.kept_length(step, sequence_length)
        return StepShape(
            num_rows=num_rows,
            sequence_length=sequence_length,
            num_dropping_layers=0 if dropping is None else dropping.random_ltd_layer_num,
            kept_length=sequence_length if kept_length is None else kept_length,
            skipped=self._skipped(self.kept_rows(step), num_rows),
        )

    def _skipped(self, kept: tuple[int, ...], num_rows: int) -> tuple[SkippedRows, ...]:
        if not kept or self.layer_dropout is None:
            return ()
        size = self.layer_dropout.rows_per_group
        dropping = () if self.random_ltd is None else self.random_ltd.random_ltd_layer_id
        groups = self.num_groups(num_rows)
        alike = Counter((size - one, layer in dropping) for layer, one in enumerate(kept))
        return tuple(
            SkippedRows(num_layers=layers, num_rows=groups * skipped, drops_tokens=drops)
            for (skipped, drops), layers in sorted(alike.items())
            if skipped
        )

    def refuse_part_of_a_group(self, step: int, num_rows: int) -> None:
        """Raise ConfigError if a forward of so many rows is no whole number of groups, while some skip layers."""
        if self.kept_rows(step):
            self.num_groups(num_rows)

    def num_groups(self, num_rows: int) -> int:
        """Groups of rows in a forward.

        Raises:
            ConfigError: if the rows are no whole number of groups.
        """
        assert self.layer_dropout is not None
        size = self.layer_dropout.rows_per_group
        if num_rows % size:
            raise ConfigError(
                f"layer_dropout.rows_per_group is {size}, but a forward has {num_rows} rows: must be a whole "
                "number of groups; change rows_per_group or the micro-batch"
            )
        return num_rows // size

    def next_change(self, step: int) -> int | None:
        """The first step after `step` at which the layers may process something else; None: never."""
        if self.is_full(step):
            return None
        changes = [self.full_from_step]
        if self.random_ltd is not None:
            changes.append(self.random_ltd.schedule.next_change(step))
        if self.layer_dropout is not None:
            changes.append(self.layer_dropout.schedule.next_change(step))
        return min((change for change in changes if change is not None), default=None)
