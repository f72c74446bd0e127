"""The kinds of schedule that a JSON file can name."""

from collections.abc import Mapping
from dataclasses import is_dataclass

from data_efficiency.json_section import Faults, Section
from data_efficiency.schedule.custom import CustomSchedule
from data_efficiency.schedule.discrete import DiscreteSchedule
from data_efficiency.schedule.exponential import ExponentialFall
from data_efficiency.schedule.protocol import Schedule
from data_efficiency.schedule.root import RootSchedule

Kinds = Mapping[str, type[Schedule]]

_CURRICULUM_KINDS: Kinds = {
    "fixed_linear": RootSchedule,
    "fixed_root": RootSchedule,
    "fixed_discrete": DiscreteSchedule,
    "custom": CustomSchedule,
}
_KEPT_LENGTH_KINDS: Kinds = {
    "fixed_linear": RootSchedule,
    "fixed_discrete": DiscreteSchedule,
    "constant": RootSchedule,
}
_KEPT_ROWS_KINDS: Kinds = {**_KEPT_LENGTH_KINDS, "exponential": ExponentialFall}
_registered: dict[str, type[Schedule]] = {}


def curriculum_kinds() -> Kinds:
    """What a metric may name as its `schedule_type`."""
    return {**_CURRICULUM_KINDS, **_registered}


def batch_size_kinds() -> Kinds:
    """What the samples of a step may name as their `schedule_type`: kinds whose end is known."""
    return {name: kind for name, kind in curriculum_kinds().items() if kind.ends}


def kept_length_kinds() -> Kinds:
    """What the kept length of random-LTD may name as its `schedule_type`."""
    return {**_KEPT_LENGTH_KINDS, **_registered}


def kept_rows_kinds() -> Kinds:
    """What the share of rows kept in layer dropout may name as its `schedule_type`."""
    return {**_KEPT_ROWS_KINDS, **_registered}


def register_schedule(kind: str, schedule_class: type[Schedule]) -> None:
    """Let `schedule_type` name a kind of your own, for metrics, kept lengths and kept rows.

    Register it in every process, before the JSON file is read. A checkpoint compares the dataclass's
    fields.

    Raises:
        ValueError: if the name is taken, or the class is no dataclass that inherits from `Schedule`.
    """
    if kind in {**curriculum_kinds(), **kept_rows_kinds()}:
        raise ValueError(f"schedule_type {kind!r} is taken: register another name")
    if not (is_dataclass(schedule_class) and issubclass(schedule_class, Schedule)):
        raise ValueError(
            f"{schedule_class.__name__} cannot be schedule_type {kind!r}: must be a frozen dataclass "
            "that inherits from data_efficiency.Schedule"
        )
    _registered[kind] = schedule_class


def read_schedule(
    section: Section, kinds: Kinds, low: int, high: int, names: Mapping[str, str] | None = None
) -> Schedule:
    """The schedule that a section's `schedule_type` and `schedule_config` describe.

    Args:
        high: its maximum, at least `low`.
        names: key of a kind -> how `schedule_config` writes it, where it is written otherwise.
    """
    kind = section.choice("schedule_type", tuple(kinds))
    details, faults = section.section("schedule_config", names), Faults()
    schedule = faults.ask(lambda: kinds[kind].from_section(kind, low, high, details))
    faults.ask(details.close)
    faults.refuse()
    assert schedule is not None
    details.warn(*schedule.corrections)
    return schedule


def kind_of(schedule: Schedule) -> tuple[str, tuple[str, ...]]:
    """How a JSON file names the kind of a schedule, and the fields that follow from that name.

    Raises:
        ValueError: for a class that was not registered.
    """
    if isinstance(schedule, RootSchedule):
        is_linear = schedule.root_degree == 1
        return ("fixed_linear", ("root_degree",)) if is_linear else ("fixed_root", ())
    if isinstance(schedule, CustomSchedule):
        return "custom", ("function",)
    for kind, kind_class in {**curriculum_kinds(), **kept_rows_kinds()}.items():
        if type(schedule) is kind_class:
            return kind, ()
    raise ValueError(
        f"{type(schedule).__name__} has no name in the JSON file: register_schedule gives it one"
    )
