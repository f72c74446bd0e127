"""The usual configurations in a line of Python each; the JSON file is what they stand for.

DataEfficiencyConfig.of(
Curriculum("seqlen", start=64, steps=1000),
Curriculum("vocab_rarity", index="difficulty/vocab_rarity", start=1, steps=1000),
RandomLTD(start=128, steps=400),
LayerDropout(start=60, steps=1000),
)
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data_efficiency.config.order import SORTED, Order, OrderKind
from data_efficiency.config.random_ltd import TokenScale
from data_efficiency.json_section import AUTO, ConfigError

LENGTH_METRICS = {
    "seqlen": "seqlen_truncate",
    "seqlen_truncate": "seqlen_truncate",
    "seqlen_reshape": "seqlen_reshape",
    "attention_window": "attention_window",
    "sliding_window": "sliding_window",
}
"""Names that pace the length of rows -> how the JSON file calls them."""


def _refuse(owner: object, **numbers: int | None) -> None:
    """Raise ConfigError, naming all numbers that are not whole and positive, in the order they are given."""
    wrong = [
        f"{name} is {number!r}: must be a whole number, at least 1"
        for name, number in numbers.items()
        if number is not None and (type(number) is not int or number < 1)
    ]
    if wrong:
        raise ConfigError(f"{type(owner).__name__}: {'; '.join(wrong)}")
    start, end = numbers.get("start"), numbers.get("end")
    if end is not None and start is not None and start > end:
        raise ConfigError(f"{type(owner).__name__}: start is {start}: above end ({end})")


def _refuse_no_list(owner: object, **lists: Any) -> None:
    """Raise ConfigError for a list that is something else."""
    for name, numbers in lists.items():
        is_list = hasattr(numbers, "__iter__") and not isinstance(numbers, str)
        if numbers is not None and not is_list:
            raise ConfigError(
                f"{type(owner).__name__}: {name} is {numbers!r}: must be a list, such as [1, 2]"
            )


@dataclass(frozen=True)
class Curriculum:
    """One metric of a curriculum: which samples may be drawn, or how long rows are.

    `seqlen` (or `seqlen_truncate`, `seqlen_reshape`) without an index paces the length of rows, from `start`
    tokens to `end`, and `attention_window` or `sliding_window` how far attention looks. Any other metric, with the folder of its index, lets the easiest samples in first, from
    `start` percent of them to `end`; or up to a difficulty, where `by` is "value". With an `order` it paces nothing:
    all samples are sorted by it, and played so.

    Raises:
        ConfigError: for numbers that cannot be, a length without and a metric with no index.
    """

    metric: str
    start: int | None = None
    """Length, percentile or value at the first step. Not given: percentile 1; nothing with an `order`."""
    steps: int | None = None
    """Steps from there to `end`; nothing with an `order`."""
    end: int | None = None
    """Not given: the length of the rows, or 100 percent."""
    index: str | os.PathLike[str] | None = None
    """Folder of the difficulty index."""
    by: Literal["percentile", "value"] | None = None
    """Not given: "percentile" with an index; lengths are values."""
    root: int | None = None
    """Degree of the root that the growth follows; 1 is linear. Not given: 1 for lengths, else 2."""
    step_size: int | None = None
    """Multiples that are reached. Not given: 8 for lengths, else 1."""
    window: int | None = None
    """Difficulties that the pool reaches down from the highest; easier samples are retired. Not given: none is."""
    order: OrderKind | Order | None = None
    """The metric sorts all samples, and they are played in this order, instead of being admitted by and by."""
    bands: int | None = None
    """With an order: bands that the metric tells apart, inside which the next metric sorts."""
    constant_tokens: bool = False
    """Of `seqlen`: a step has more rows while they are shorter, so that it has as many tokens."""
    keep_end_token: int | Literal["auto"] | None = None
    """Of `seqlen`: id of the token that ends texts, or "auto" for the dataset's: rows that end with it do so when they are cut."""

    def __post_init__(self) -> None:
        if self.order is not None:
            self._refuse_beside_order()
            return
        missing = [name for name in self._needed if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"Curriculum({self.metric!r}) has no {' and no '.join(missing)}: give "
                f"{' and '.join(f'{name}=' for name in self._needed)}, or an order="
            )
        _refuse(
            self,
            start=self.start,
            steps=self.steps,
            end=self.end,
            root=self.root,
            step_size=self.step_size,
            window=self.window,
        )
        if self.index is None and not self.is_length:
            raise ConfigError(
                f"Curriculum({self.metric!r}) has no index: name the folder of its difficulty index (index=), "
                f"or pace a length: {', '.join(LENGTH_METRICS)}"
            )
        for name in ("constant_tokens", "keep_end_token"):
            if getattr(self, name) not in (None, False) and not self.is_length:
                raise ConfigError(
                    f"Curriculum({self.metric!r}): {name} belongs to a length of rows"
                )
        if self.is_length and self.by is not None:
            raise ConfigError(f"Curriculum({self.metric!r}): by belongs to a metric with an index")
        if self.by == "value" and self.end is None:
            raise ConfigError(f"Curriculum({self.metric!r}) goes by value: give end=, the largest")

    def _refuse_beside_order(self) -> None:
        """Raise ConfigError for what paces a metric that sorts, or if it has no index."""
        pacing = ("start", "steps", "end", "by", "root", "step_size", "window")
        given = [name for name in pacing if getattr(self, name) is not None]
        if given or self.index is None:
            wrong = f"{given[0]} belongs to a metric that is paced" if given else "it needs index="
            raise ConfigError(f"Curriculum({self.metric!r}) has an order: {wrong}")

    @property
    def _needed(self) -> tuple[str, ...]:
        """What a paced metric cannot do without; percentiles begin with the first."""
        return ("start", "steps") if self.is_length or self.by == "value" else ("steps",)

    @property
    def is_length(self) -> bool:
        """Whether rows are cut, and samples are not chosen."""
        return self.index is None and self.metric in LENGTH_METRICS

    @property
    def name(self) -> str:
        """How the JSON file calls the metric."""
        return LENGTH_METRICS[self.metric] if self.is_length else self.metric

    def section(self) -> dict[str, Any]:
        """The keys of the metric in the JSON file."""
        bands = {} if self.bands is None else {"num_bands": self.bands}
        if self.order is not None:
            assert self.index is not None
            return {"clustering_type": SORTED, "index_path": os.fspath(self.index), **bands}
        root = self.root or (1 if self.is_length else 2)
        pace = {
            "total_curriculum_step": self.steps,
            "difficulty_step": self.step_size or (8 if self.is_length else 1),
        }
        window = {} if self.window is None else {"window_size": self.window}
        paced = {
            **window,
            **bands,
            "min_difficulty": self.start or 1,
            "schedule_type": "fixed_linear" if root == 1 else "fixed_root",
            "schedule_config": pace if root == 1 else {**pace, "root_degree": root},
        }
        if self.is_length:
            constant = {"constant_tokens": True} if self.constant_tokens else {}
            kept = {} if self.keep_end_token is None else {"keep_end_token": self.keep_end_token}
            return paced | {
                **constant,
                **kept,
                "difficulty_type": "value",
                "clustering_type": "single_cluster",
                "max_difficulty": self.end or AUTO,
            }
        assert self.index is not None
        return paced | {
            "difficulty_type": self.by or "percentile",
            "clustering_type": "schedule_based",
            "max_difficulty": self.end or 100,
            "index_path": os.fspath(self.index),
        }


@dataclass(frozen=True)
class RandomLTD:
    """Random layerwise token dropping: the middle layers see `start` tokens of a row at first, `end` at last.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    start: int
    """Kept tokens at the first step."""
    steps: int
    """Steps from there to `end`."""
    end: int | None = None
    """Not given: the length of the rows."""
    layers: Sequence[int] | Sequence[Sequence[int]] | None = None
    """Which layers drop tokens, from 0. Not given: all but the first and the last. A list of lists names spans,
    whose layers keep one subset."""
    step_size: int = 16
    """Kept lengths are multiples of this."""
    always_keep: Sequence[int] = ()
    """Positions that no layer drops, such as [0] for a class token."""
    mask_name: str | None = None
    """Keyword of a layer's mask, for a class without a preset. Not given: as its `forward` calls it."""
    order: Literal["batch_seq_dim", "seq_batch_dim"] | None = None
    """Order of the axes, for a class without a preset. Not given: batch first."""
    always_keep_labelled: bool = False
    """Whether positions with a label in the loss are kept before others."""
    residual_scale: TokenScale = "none"
    """What a dropping layer's change of a kept token is multiplied by."""

    def __post_init__(self) -> None:
        _refuse(self, start=self.start, steps=self.steps, end=self.end, step_size=self.step_size)
        _refuse_no_list(self, layers=self.layers, always_keep=self.always_keep)

    def section(self) -> dict[str, Any]:
        """The keys of `random_ltd` in the JSON file."""
        named: dict[str, Any] = {
            "model_mask_name": self.mask_name,
            "hidden_state_order": self.order,
        }
        if self.layers is not None:
            spans: list[Any] = list(self.layers)
            named["random_ltd_layer_id"] = [
                list(one) if hasattr(one, "__iter__") else one for one in spans
            ]
        return {
            "enabled": True,
            **{key: value for key, value in named.items() if value is not None},
            "always_keep": list(self.always_keep),
            "always_keep_labelled": self.always_keep_labelled,
            "residual_scale": self.residual_scale,
            "random_ltd_schedule": {
                "min_value": self.start,
                "max_value": self.end or AUTO,
                "schedule_type": "fixed_linear",
                "schedule_config": {"require_steps": self.steps, "seq_per_step": self.step_size},
            },
        }


@dataclass(frozen=True)
class LayerDropout:
    """Layer dropout: rows skip layers, in the deepest one all but `start` percent of them at first, `end` at last.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    start: int
    """Percent of the rows that the deepest layer keeps at the first step."""
    steps: int
    """Steps from there to `end`."""
    end: int = 100
    """Percent at last; as `start`: always so many."""
    rows_per_group: int = 8
    """Of so many rows equally many are kept; a micro-batch is a whole number of groups."""
    layers: Sequence[int] = ()
    """Which layers rows may skip, from 0. Not given: all."""
    depth: Literal["linear", "uniform"] = "linear"
    """Whether the share of rows that skip rises from 0 in the first layer, or is the same in each."""
    residual_scale: Literal["inverse_keep", "none"] = "inverse_keep"
    """What a layer's change of a kept row is multiplied by."""

    def __post_init__(self) -> None:
        _refuse(self, start=self.start, steps=self.steps, end=self.end)
        _refuse_no_list(self, layers=self.layers)

    def section(self) -> dict[str, Any]:
        """The keys of `layer_dropout` in the JSON file."""
        schedule: dict[str, Any] = {"schedule_type": "constant"}
        if self.end > self.start:
            pace = {"total_curriculum_step": self.steps, "difficulty_step": 1}
            schedule = {"schedule_type": "fixed_linear", "schedule_config": pace}
        return {
            "enabled": True,
            "rows_per_group": self.rows_per_group,
            "layer_id": list(self.layers),
            "depth": self.depth,
            "residual_scale": self.residual_scale,
            "keep_schedule": {"min_value": self.start, "max_value": self.end, **schedule},
        }


def _order_of(part: Curriculum, before: Mapping[str, Any]) -> dict[str, Any]:
    """The `order` section that a metric which sorts asks for; nothing of another metric.

    Raises:
        ConfigError: if a metric before asked for another one.
    """
    if part.order is None:
        return {}
    order = part.order if isinstance(part.order, Order) else Order(kind=part.order)
    written = order.section()
    if before.get("order", written) != written:
        raise ConfigError(
            f"Curriculum({part.metric!r}) has the order {order.describe()}, and a metric before it another "
            "one: all samples are played in one order, so give each of them the same"
        )
    return {"order": written}


@dataclass(frozen=True)
class TokenSuperposition:
    """Token superposition: in the first `steps` a position of the model stands for `bag_size` tokens.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    bag_size: int
    steps: int
    bags: Literal["both", "input", "output"] = "both"
    """Where bags stand in the place of tokens."""
    label_weights: Literal["uniform", "power_law"] = "uniform"
    """How the tokens of a bag count in the loss of a position."""
    power: float = 1.0
    """Of power_law."""
    labels_are_next: bool = True
    """Whether a label is the token behind its position; false: at it, as Hugging Face's models take it."""

    def __post_init__(self) -> None:
        _refuse(self, bag_size=self.bag_size, steps=self.steps)

    def section(self) -> dict[str, Any]:
        """The keys of `token_superposition` in the JSON file."""
        return {
            "enabled": True,
            "bag_size": self.bag_size,
            "num_steps": self.steps,
            "bags": self.bags,
            "label_weights": self.label_weights,
            "power": self.power,
            "labels_are_next": self.labels_are_next,
        }


Part = Curriculum | RandomLTD | LayerDropout | TokenSuperposition
ROUTE_PARTS: Mapping[type, str] = {
    RandomLTD: "random_ltd",
    LayerDropout: "layer_dropout",
    TokenSuperposition: "token_superposition",
}
"""Part -> its section of `data_routing`."""


def section_of_parts(parts: Iterable[Part], **settings: Any) -> dict[str, Any]:
    """The `data_efficiency` section that the parts stand for.

    Args:
        settings: `seed`, `full_from_step`, `random_rank`, and keys of `data_sampling`.

    Raises:
        ConfigError: for something else, or a part that is there twice.
    """
    if "curriculum_learning" in settings:
        raise ConfigError(
            "curriculum_learning is what Curriculum(...) stands for: give those, or the whole section as a dict"
        )
    metrics: dict[str, Any] = {}
    orders: dict[str, Any] = {}
    routing: dict[str, Any] = {}
    for part in parts:
        place = metrics if isinstance(part, Curriculum) else routing
        name = part.name if isinstance(part, Curriculum) else ROUTE_PARTS.get(type(part))
        if name is None or name in place:
            raise ConfigError(
                f"{part!r} is {'no part' if name is None else 'there twice'}: give each once"
            )
        place[name] = part.section()
        if isinstance(part, Curriculum):
            orders |= _order_of(part, orders)
    seed = {"seed": settings.pop("seed")} if "seed" in settings else {}
    if "full_from_step" in settings:
        routing["full_from_step"] = settings.pop("full_from_step")
    control = {key: settings.pop(key) for key in ("random_rank",) if key in settings}
    curriculum: dict[str, Any] = {"curriculum_metrics": metrics, **orders, **control}
    if control.get("random_rank") and not metrics:
        raise ConfigError(
            "random_rank is true, but there is no Curriculum(...) whose order it replaces: give one, or remove it"
        )
    curriculum = {"enabled": True, **curriculum} if metrics else {}
    return {
        **seed,
        "data_sampling": {**settings, "curriculum_learning": curriculum},
        "data_routing": routing,
    }
