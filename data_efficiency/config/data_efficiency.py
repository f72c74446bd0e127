"""The `data_efficiency` section of the JSON file <-> frozen dataclasses.

Source: DeepSpeed's section of this name. Differs: the three outer `enabled` switches, which DeepSpeed
never reads, are checked against the inner ones; `index_path`, `sequence_length` and `sequence_axes` are
new.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from data_efficiency.config.batch_size import BatchSize
from data_efficiency.config.contradictions import refuse_contradictions
from data_efficiency.config.data_sampling import READERS, read_data_sampling
from data_efficiency.config.feedback import Feedback
from data_efficiency.config.layer_dropout import LayerDropoutConfig
from data_efficiency.config.length_buckets import LengthBuckets
from data_efficiency.config.metric_keys import OpenLengthPlan
from data_efficiency.config.metrics import LengthPlan, PacedMetric, Selection
from data_efficiency.config.mix import Mix
from data_efficiency.config.order import Order
from data_efficiency.config.random_ltd import OpenRandomLTD, RandomLTDConfig
from data_efficiency.config.routing import ROUTES, DataRoutingKeys, RoutingConfig
from data_efficiency.config.short_form import Part, section_of_parts
from data_efficiency.config.superposition import SuperpositionConfig
from data_efficiency.json_section import (
    ConfigError,
    Faults,
    NotNegative,
    Section,
)
from data_efficiency.schedule.custom import CustomSchedule
from data_efficiency.schedule.protocol import Schedule

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=PacedMetric)


@dataclass(frozen=True, kw_only=True)
class DataEfficiencyConfig:
    """The `data_efficiency` section."""

    seed: int = 1234
    num_epochs: int = 1000
    num_workers: int = 0
    pin_memory: bool = False
    selections: tuple[Selection, ...] = ()
    """Empty: samples are drawn uniformly."""
    order: Order | None = None
    """In which order samples are played, where the selections sort them."""
    random_rank: bool = False
    """The selections' pacing and order over a random order of the samples."""
    mix: Mix | None = None
    """Weights of a blend's parts, as the run goes on; None: those of the dataset."""
    feedback: Feedback | None = None
    """How samples follow the run's losses on them; None: they do not."""
    batch_size: BatchSize | None = None
    """Samples of a step, as the run goes on; None: always those of the engine's settings."""
    length_buckets: LengthBuckets | None = None
    """How rows of several lengths are drawn, one length a step; None: rows have one length."""
    length_plans: tuple[LengthPlan, ...] = ()
    """Empty: rows stay as they are read."""
    sequence_axes: Mapping[str, tuple[int, ...]] | None = None
    """Entry of a batch -> its axes along the sequence; None: names tell."""
    open_length_plans: tuple[OpenLengthPlan, ...] = ()
    """Those that go up to the rows' length, before that is known: `with_length` says it."""
    metric_names: tuple[str, ...] = ()
    """As the file lists them; a metric may be a selection, a length plan, or both."""
    data_cluster_path: str | None = None
    """Folder where the clusters of several selections are kept; None: beside their index."""
    random_ltd: RandomLTDConfig | OpenRandomLTD | None = None
    """None: no token is dropped. Open: the model or the rows' length say the rest."""
    layer_dropout: LayerDropoutConfig | None = None
    """None: no row skips a layer."""
    token_superposition: SuperpositionConfig | None = None
    """None: each position is a token."""
    full_from_step: int | None = None
    """Steps finished from which on nothing is dropped or skipped; None: what the routes' schedules say."""
    row_shares: int = 1
    """Processes that share each row: `tensor_parallel.autotp_size` of the JSON file, beside this section."""

    @classmethod
    def of(cls, *parts: Part, **settings: Any) -> "DataEfficiencyConfig":
        """The configuration of some parts: as many metrics as you like, and each route once.

        Args:
            settings: `seed`, `full_from_step`, `random_rank`, and keys of `data_sampling` in the JSON file, such
                as `num_workers`.

        Raises:
            ConfigError: with all that is wrong.

        Example:
            >>> from data_efficiency import Curriculum
            >>> config = DataEfficiencyConfig.of(Curriculum("seqlen", start=64, steps=9), seed=1)
            >>> config.with_length(1024).schedules["seqlen_truncate"].describe()
            'from 64 to 1024 in 9 steps'
        """
        return read_data_efficiency(Section(section_of_parts(parts, **settings), "data_efficiency"))

    @property
    def closed_random_ltd(self) -> RandomLTDConfig | None:
        """`random_ltd` where nothing is open.

        Raises:
            ConfigError: naming what is.
        """
        if isinstance(self.random_ltd, OpenRandomLTD):
            self.random_ltd.refuse()
        return self.random_ltd

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the kinds of routing that are on, as the JSON file calls them."""
        return tuple(name for name in ROUTES if getattr(self, name) is not None)

    @property
    def layer_routes(self) -> tuple[str, ...]:
        """Those of them that layers take."""
        return tuple(name for name in self.routes if ROUTES[name].in_layers)

    def routing(self, num_layers: int) -> RoutingConfig | None:
        """All routes through layers together, for a model of so many; None if none is on.

        Raises:
            ConfigError: naming what is open, or does not go with the model.
        """
        if not self.layer_routes:
            return None
        routing = RoutingConfig(
            num_layers=num_layers,
            random_ltd=self.closed_random_ltd,
            layer_dropout=self.layer_dropout,
            full_from_step=self.full_from_step,
            token_superposition=self.token_superposition,
            row_shares=self.row_shares,
        )
        routing.refuse_layers()
        return routing

    def with_routing(self, routing: RoutingConfig) -> "DataEfficiencyConfig":
        """The same with the routes as a model has closed them."""
        names = (name for name, route in ROUTES.items() if route.in_layers)
        return replace(self, **{name: getattr(routing, name) for name in names})

    @property
    def needs_length(self) -> bool:
        """Whether something goes up to the rows' length."""
        dropping, mix = self.random_ltd, self.mix
        return (
            bool(self.open_length_plans)
            or (isinstance(dropping, OpenRandomLTD) and dropping.needs_length)
            or (mix is not None and mix.unit == "tokens")
            or (self.batch_size is not None and self.batch_size.needs_length)
        )

    def refuse_contradictions(self) -> None:
        """Raise ConfigError for two techniques of which each changes what the other relies on."""
        paced: tuple[LengthPlan | OpenLengthPlan, ...] = self.length_plans + self.open_length_plans
        techniques = {name: getattr(self, name) for name in (*READERS, *ROUTES)}
        refuse_contradictions(self.selections, paced, techniques)

    def with_length(self, length: int) -> "DataEfficiencyConfig":
        """The same for rows of a length, in tokens.

        Raises:
            ConfigError: if something starts above it.
        """
        dropping = self.random_ltd
        if isinstance(dropping, OpenRandomLTD):
            dropping = dropping.closed(length=length)
        more = (plan.closed(length) for plan in self.open_length_plans)
        plans = {plan.name: plan for plan in (*self.length_plans, *more)}
        in_order = dict.fromkeys([*(name for name in self.metric_names if name in plans), *plans])
        closed = replace(
            self,
            length_plans=tuple(plans[name] for name in in_order),
            open_length_plans=(),
            mix=None if self.mix is None else self.mix.in_samples(length),
            batch_size=None if self.batch_size is None else self.batch_size.with_length(length),
            random_ltd=dropping,
        )
        return closed.with_row_shares(self.row_shares)

    def with_row_shares(self, row_shares: int) -> "DataEfficiencyConfig":
        """The same where processes share each row, and all its layers see of it, evenly.

        Raises:
            ConfigError: for what does not go with that, and for lengths that they cannot share evenly.
        """
        if row_shares == self.row_shares == 1:
            return self
        if self.token_superposition is not None:
            raise ConfigError(
                "token_superposition is enabled, and processes share each row (tensor parallelism): bags of tokens are "
                "not cut; take FSDP2 (zero_optimization.stage 2 or 3) instead, or switch it off"
            )
        for plan in self.length_plans:
            plan.refuse_uneven_lengths(row_shares)
        return replace(self, row_shares=row_shares)

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Metric name -> schedule; empty without a curriculum."""
        found = {metric.name: metric.schedule for metric in (*self.selections, *self.length_plans)}
        in_order = dict.fromkeys([*self.metric_names, *found])
        return {name: found[name] for name in in_order if name in found}

    @property
    def has_curriculum(self) -> bool:
        """Whether anything chooses samples, or paces lengths or batches: a metric, closed by the rows or not, a mix, losses."""
        return bool(self.schedules or self.open_length_plans or self.reshapes_sampling)

    @property
    def reshapes_sampling(self) -> bool:
        """Whether something beside the metrics says which samples a step has, or how many."""
        return bool(self.mix or self.feedback or self.batch_size or self.length_buckets)

    @property
    def has_constant_tokens(self) -> bool:
        """Whether steps have more rows while these are shorter."""
        plans: tuple[LengthPlan | OpenLengthPlan, ...] = self.length_plans + self.open_length_plans
        return self.length_buckets is not None or any(plan.constant_tokens for plan in plans)

    def with_end_token(self, end: int | None) -> "DataEfficiencyConfig":
        """The same for a dataset whose texts end with a token.

        Raises:
            ConfigError: if it is needed and not known.
        """
        finding = [plan.name for plan in self.length_plans if plan.finds_end_token]
        if not finding:
            return self
        if end is None:
            raise ConfigError(
                f'metric {finding[0]!r} keeps the token that ends texts (keep_end_token is "auto"), but the dataset does not say '
                "which it is (end_of_text): give its id, or remove the key"
            )
        plans = (
            replace(plan, keep_end_token=end, finds_end_token=False)
            if plan.finds_end_token
            else plan
            for plan in self.length_plans
        )
        return replace(self, length_plans=tuple(plans))

    def with_buckets(
        self, lengths: tuple[int, ...], sizes: tuple[int, ...]
    ) -> "DataEfficiencyConfig":
        """The same for rows of several lengths, in tokens, of which there are so many each.

        Raises:
            ConfigError: if other ones are written.
        """
        assert self.length_buckets is not None
        return replace(self, length_buckets=self.length_buckets.of_rows(lengths, sizes))

    def with_custom_schedules(
        self, functions: Mapping[str, Callable[[int], int]]
    ) -> "DataEfficiencyConfig":
        """The same with functions of the step for metrics whose `schedule_type` is custom.

        Raises:
            ValueError: for an unknown metric, or one with another schedule type.
        """
        custom = {name for name, schedule in self.schedules.items() if schedule.takes_function}
        unknown = sorted(set(functions) - custom)
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is no metric with schedule_type custom; those are {sorted(custom)}"
            )

        def followed(metrics: tuple[M, ...]) -> tuple[M, ...]:
            return tuple(
                replace(metric, schedule=CustomSchedule(function=functions[metric.name]))
                if metric.name in functions
                else metric
                for metric in metrics
            )

        return replace(
            self, selections=followed(self.selections), length_plans=followed(self.length_plans)
        )


@dataclass(frozen=True, kw_only=True)
class DataEfficiencyKeys:
    """`data_efficiency`."""

    enabled: bool = False
    """Must agree with the switches inside; alone it has no effect."""
    seed: NotNegative = 1234
    """Seed of sampling and routing."""
    data_sampling: Section
    """Curriculum and loader, see below."""
    data_routing: Section
    """Token dropping and other routes, see below."""


def read_data_efficiency(section: Section) -> DataEfficiencyConfig:
    """The parsed section.

    Raises:
        ConfigError: with all that is missing or wrong in it.
    """
    faults = Faults()
    sampling_section = section.section("data_sampling")
    routing_section = section.section("data_routing")
    keys = faults.ask(lambda: section.read(DataEfficiencyKeys))
    sampling = read_data_sampling(sampling_section, faults)
    routing = faults.ask(lambda: routing_section.read(DataRoutingKeys))
    seed = 0 if keys is None else keys.seed
    routes: dict[str, Any] = {
        name: faults.ask(partial(route.read, routing_section.section(name), seed))
        for name, route in ROUTES.items()
    }
    for part in (section, routing_section):
        faults.ask(part.close)
    faults.refuse()
    assert sampling is not None
    assert routing is not None
    routes_on = [name for name, route in routes.items() if route is not None]
    if routing.full_from_step is not None and not any(ROUTES[name].in_layers for name in routes_on):
        routing_section.warn(
            f"full_from_step is {routing.full_from_step}, but no route through layers is on: it changes nothing"
        )
    samples = sampling.is_on
    _check_switch(section, on=samples or bool(routes_on), inner="any technique in it")
    _check_switch(sampling_section, on=samples, inner="curriculum_learning")
    _check_switch(
        routing_section, on=bool(routes_on), inner=" and ".join(routes_on) or "random_ltd"
    )
    config = DataEfficiencyConfig(
        seed=seed, full_from_step=routing.full_from_step, **sampling.fields(), **routes
    )
    config.refuse_contradictions()
    return config


def _check_switch(section: Section, *, on: bool, inner: str) -> None:
    """A warning where an outer `enabled` contradicts the switches that count."""
    if "enabled" not in section:
        return
    enabled = section.boolean("enabled", False)
    if enabled != on:
        logger.warning(
            "%s.enabled is %s but %s is %s; only the inner switch counts",
            section.path,
            str(enabled).lower(),
            inner,
            "on" if on else "off",
        )
