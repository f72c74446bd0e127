"""The `order` of curriculum_learning: metrics that sort the samples, and in which order they are played.

A metric whose `clustering_type` is sorted admits every sample from the first step on. All such metrics
together sort the samples, the first one outermost; the order says how a pass runs through them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from data_efficiency.json_section import ConfigError, Section

OrderKind = Literal["ascending", "descending", "folded", "saw", "interleaved", "sequence", "stages"]
StageOrder = Literal["shuffled", "ascending", "descending"]
MOST_BUCKETS = 2**20
MOST_GROUPS = 2**16
MOST_STAGE_PARTS = 1000
DEFAULT_BUCKETS = 100
SORTED = "sorted"
"""`clustering_type` of a metric that sorts."""
_FOLDING: Sequence[OrderKind] = ("folded", "saw", "interleaved")
_PACING = (
    "difficulty_type",
    "min_difficulty",
    "max_difficulty",
    "schedule_type",
    "schedule_config",
    "window_size",
)
WHOLE: Mapping[str, Any] = {
    "difficulty_type": "percentile",
    "min_difficulty": 100,
    "max_difficulty": 100,
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 1, "difficulty_step": 1},
}
"""The pacing of a metric that sorts: all samples, from the first step on."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """`data_efficiency.data_sampling.curriculum_learning.order`."""

    kind: OrderKind = "ascending"
    """How a pass runs through the sorted samples. folded: `num_folds` times from the easiest to the hardest, each
    time through every so manieth sample. saw: the same, every second fold from the hardest to the easiest.
    interleaved: the samples are cut into `num_folds` bands, and every batch advances through all of them.
    sequence: groups in the order that `sequence` names. stages: one order after the other, each over a share of the samples
    that lies evenly in the sorted ones, see `stages`."""
    num_buckets: int | None = None
    """Buckets of equally many samples (of each fold) that are played one after the other, each in random order;
    at most 1048576, as many as samples sort strictly. Not given: 100. Not where every metric has bands:
    their groups are the buckets."""
    num_folds: int | None = None
    """Folds or bands, needed for folded, saw and interleaved."""
    pass_samples: int | None = None
    """Samples that a pass draws: the first of the run's that the order is spread over. Fewer than the dataset has leave
    some of each bucket out, more draw some of each bucket again. Not given: each sample once; in a run file "auto"
    is what whole samples fill the budget with. In a blend
    each part draws its share of them, so that all parts go through their buckets together."""
    sequence: tuple[int, ...] = ()
    """Of a sequence: the groups of metrics that all have `num_bands`, each once. Group number: the first metric's
    band x the others' bands + the rest's group, so two metrics of two bands have 0 (easy, easy), 1 (easy,
    hard), 2 (hard, easy) and 3 (hard, hard)."""
    stages: Any = None
    """Of stages: a list of pairs, how a stage is played (shuffled, ascending or descending) and its share of a pass in whole
    parts, together 1000 at most: [["shuffled", 7], ["ascending", 3]]."""

    @property
    def buckets(self) -> int:
        """Buckets of a fold."""
        return self.num_buckets or DEFAULT_BUCKETS

    def section(self) -> dict[str, Any]:
        """The keys of the JSON file, those that are not given left out."""
        stages = self.stages and [list(stage) for stage in self.stages]
        written = vars(self) | {"sequence": list(self.sequence), "stages": stages}
        return {key: value for key, value in written.items() if value not in (None, [])}

    def describe(self) -> str:
        """The order in a few words.

        Example:
            >>> Order(kind="saw", num_folds=4, pass_samples=1000).describe()
            'saw, 4 folds, 1000 samples a pass'
        """
        folds = "" if self.num_folds is None else f", {self.num_folds} folds"
        groups = f" of groups {list(self.sequence)}" if self.sequence else ""
        groups += "".join(f", {kind} {share}" for kind, share in self.stages or ())
        spread = "" if self.pass_samples is None else f", {self.pass_samples} samples a pass"
        return f"{self.kind}{groups}{folds}{spread}"


def with_pacing(entry: object, path: str) -> object:
    """The keys of a metric that sorts with the pacing that this means; those of another metric as they are.

    Raises:
        ConfigError: for a pacing that is written.
    """
    if not isinstance(entry, Mapping) or entry.get("clustering_type") != SORTED:
        return entry
    paced = [key for key in _PACING if key in entry]
    if paced:
        raise ConfigError(
            f"{path}.{paced[0]} is {entry[paced[0]]!r}, but the metric sorts all samples "
            f"(clustering_type {SORTED}) and paces nothing: remove {', '.join(paced)}, or say schedule_based"
        )
    return {**entry, **WHOLE}


def read_order(section: Section, bands: Mapping[str, int | None], *, is_on: bool) -> Order | None:
    """How the samples are played; None where no metric sorts.

    Args:
        section: the `order` section.
        bands: metric that sorts -> its `num_bands`, the first one outermost.
        is_on: whether the section is in the file.

    Raises:
        ConfigError: for keys that do not go together.
    """
    if not bands:
        if is_on:
            raise ConfigError(
                f"{section.path} is given, but no metric sorts the samples: give one with "
                f'"clustering_type": "{SORTED}", or remove it'
            )
        return None
    order = _with_stages(section.read(Order), section.path)
    section.close()
    path, counts = section.path, list(bands.values())
    open_ended = [name for name, count in [*bands.items()][:-1] if count is None]
    if open_ended:
        raise ConfigError(
            f"metric {open_ended[0]!r} sorts exactly, so that no later one can sort inside it: give it "
            "num_bands, or let it come last"
        )
    _refuse_folds(path, order)
    _refuse_buckets(path, order, counts)
    return order


def _with_stages(order: Order, path: str) -> Order:
    """The order with its stages as pairs.

    Raises:
        ConfigError: for stages that are none, or of another kind of order.
    """
    given = order.stages
    if (order.kind == "stages") != (given is not None):
        rule = "needs them" if order.kind == "stages" else "has none: remove them"
        raise ConfigError(f"{path}.stages is {given!r}, but the order {order.kind} {rule}")
    if given is None:
        return order
    kinds = get_args(StageOrder)
    is_list = isinstance(given, (list, tuple)) and all(
        isinstance(one, (list, tuple)) and len(one) == 2 for one in given
    )
    if (
        not is_list
        or not given
        or not all(kind in kinds and type(share) is int and share > 0 for kind, share in given)
        or sum(share for _, share in given) > MOST_STAGE_PARTS
    ):
        raise ConfigError(
            f"{path}.stages is {given!r}: must be a list of pairs of {', '.join(kinds)} and a whole number above 0, "
            f"together at most {MOST_STAGE_PARTS}"
        )
    return replace(order, stages=tuple((kind, share) for kind, share in given))


def _refuse_folds(path: str, order: Order) -> None:
    if (order.kind in _FOLDING) != (order.num_folds is not None):
        verb = "needs num_folds, 2 or more" if order.kind in _FOLDING else "has no folds: remove it"
        raise ConfigError(
            f"{path}.num_folds is {order.num_folds!r}, but the order {order.kind} {verb}"
        )
    if order.num_folds is not None and not 2 <= order.num_folds <= MOST_BUCKETS // order.buckets:
        raise ConfigError(
            f"{path}.num_folds is {order.num_folds}: must be at least 2, and {order.buckets} buckets of each "
            f"fold at most {MOST_BUCKETS} together"
        )


def _refuse_buckets(path: str, order: Order, counts: Sequence[int | None]) -> None:
    if None in counts:
        if order.kind == "sequence" or order.sequence:
            raise ConfigError(
                f"{path}.sequence is {list(order.sequence)}: a sequence is of the groups of metrics that all have "
                "num_bands; give each of them that"
            )
        if order.buckets > MOST_BUCKETS:
            raise ConfigError(
                f"{path}.num_buckets is {order.buckets}: must be at most {MOST_BUCKETS}"
            )
        return
    if order.kind in (*_FOLDING, "stages") or order.num_buckets is not None:
        name = "kind" if order.num_buckets is None else "num_buckets"
        raise ConfigError(
            f"{path}.{name} is {getattr(order, name)!r}, but all metrics have num_bands, so that their groups "
            "are the buckets: remove it, or let the last metric sort exactly, without num_bands"
        )
    groups = math.prod(count or 1 for count in counts)
    if groups > MOST_GROUPS:
        raise ConfigError(
            f"{path}: the metrics' num_bands make {groups} groups: must be at most {MOST_GROUPS}"
        )
    wanted = list(range(groups)) if order.kind == "sequence" else []
    if sorted(order.sequence) != wanted:
        rule = f"must name each of the groups 0 to {groups - 1} once" if wanted else "remove it"
        raise ConfigError(f"{path}.sequence is {list(order.sequence)}: {rule} (kind {order.kind})")
