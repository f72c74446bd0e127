"""Where the objects of the JSON file stand, and the dataclasses of their keys: pages and schema are made of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NamedTuple, get_args, get_type_hints

from data_efficiency.config import (
    batch_size,
    curriculum,
    data_efficiency,
    data_sampling,
    feedback,
    file,
    layer_dropout,
    legacy_warm_up,
    length_buckets,
    metric_keys,
    mix,
    order,
    random_ltd,
    routing,
    superposition,
)
from data_efficiency.field_docs import field_docs
from data_efficiency.json_section import GIVEN, written_key
from data_efficiency.schedule import DiscreteSchedule, RootSchedule
from data_efficiency.schedule.exponential import ExponentialFall

_SCHEDULE = "METRIC.schedule_config"
_KEPT_LENGTH = "RANDOM_LTD.random_ltd_schedule"
_KEPT_ROWS = "LAYER_DROPOUT.keep_schedule"
PREFIXES = {
    "METRIC": "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.*",
    "RANDOM_LTD": "data_efficiency.data_routing.random_ltd",
    "TOKEN_SUPERPOSITION": "data_efficiency.data_routing.token_superposition",
    "LAYER_DROPOUT": "data_efficiency.data_routing.layer_dropout",
}
"""What the first words of places stand for."""
KEPT_ROWS_NAMES = {name: name for name in ("total_curriculum_step", "difficulty_step")}
"""Keys of a linear schedule of kept rows, as they are written."""
JSON_OBJECTS: Sequence[tuple[str, type, Mapping[str, str]]] = (
    ("", file.Config, {}),
    ("data_efficiency", data_efficiency.DataEfficiencyKeys, {}),
    ("data_efficiency.data_sampling", data_sampling.DataSamplingKeys, {}),
    ("data_efficiency.data_sampling.mix", mix.MixKeys, {}),
    ("data_efficiency.data_sampling.batch_size", batch_size.BatchSizeKeys, {}),
    (
        "data_efficiency.data_sampling.length_buckets",
        length_buckets.LengthBucketKeys,
        {},
    ),
    ("data_efficiency.data_sampling.feedback", feedback.FeedbackKeys, {}),
    ("data_efficiency.data_sampling.curriculum_learning", curriculum.CurriculumKeys, {}),
    ("data_efficiency.data_sampling.curriculum_learning.order", order.Order, {}),
    ("METRIC", metric_keys.MetricKeys, {}),
    (_SCHEDULE, RootSchedule, {}),
    (_SCHEDULE, DiscreteSchedule, {}),
    ("curriculum_learning", legacy_warm_up.LegacyCurriculumKeys, {}),
    ("progressive_layer_drop", layer_dropout.ProgressiveLayerDropKeys, {}),
    ("data_efficiency.data_routing", routing.DataRoutingKeys, {}),
    ("RANDOM_LTD", random_ltd.RandomLTDKeys, {}),
    ("RANDOM_LTD", random_ltd.RandomLTDConfig, {}),
    (_KEPT_LENGTH, random_ltd.KeptLengthKeys, {}),
    (f"{_KEPT_LENGTH}.schedule_config", RootSchedule, random_ltd.KEPT_LENGTH_NAMES),
    (f"{_KEPT_LENGTH}.schedule_config", DiscreteSchedule, {}),
    ("RANDOM_LTD.layer_token_lr_schedule", random_ltd.LayerTokenLRKeys, {}),
    ("LAYER_DROPOUT", layer_dropout.LayerDropoutKeys, {}),
    ("LAYER_DROPOUT", layer_dropout.LayerDropoutConfig, {}),
    ("TOKEN_SUPERPOSITION", superposition.SuperpositionKeys, {}),
    ("TOKEN_SUPERPOSITION", superposition.SuperpositionConfig, {}),
    (_KEPT_ROWS, layer_dropout.KeepScheduleKeys, {}),
    (f"{_KEPT_ROWS}.schedule_config", RootSchedule, KEPT_ROWS_NAMES),
    (f"{_KEPT_ROWS}.schedule_config", DiscreteSchedule, {}),
    (f"{_KEPT_ROWS}.schedule_config", ExponentialFall, {}),
)
"""Where an object stands in the file, the dataclass of its keys, and those that it writes otherwise."""


class JsonKey(NamedTuple):
    """A key of an object."""

    key: str
    hint: Any
    """Type of its value, without the rules."""
    rules: tuple[Any, ...]
    default: Any
    """`MISSING` where there is none."""
    doc: str


def json_keys(keys: type, names: Mapping[str, str]) -> Iterator[JsonKey]:
    """The fields of a dataclass that are keys; with `names`, those alone.

    Raises:
        ValueError: if a field has no docstring below it.
    """
    hints = get_type_hints(keys, include_extras=True)
    docs: dict[str, str] = {}
    for base in reversed(keys.__mro__):
        docs |= field_docs(base) if is_dataclass(base) else {}
    for field in fields(keys):
        hint = hints[field.name]
        rules = getattr(hint, "__metadata__", ())
        if GIVEN in rules or (names and field.name not in names):
            continue
        if field.name not in docs:
            raise ValueError(f"{keys.__name__}.{field.name} has no docstring below it: write one")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield JsonKey(
            key=names.get(field.name, written_key(field.name, hint)),
            hint=get_args(hint)[0] if rules else hint,
            rules=rules,
            default=default,
            doc=docs[field.name],
        )
