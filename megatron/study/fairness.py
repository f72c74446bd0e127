"""In what the arms of a study differ, from what their runs say of themselves."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megatron.study.results import RunResult
from megatron.study.study_file import Arm, Settings, Study

FREE = ("settings.checkpoint", "settings.logging", "environment.threads")
"""Fields that make no other run: where it is saved and how it is watched."""
SEED = "settings.training.seed"
MODEL = "settings.model"
WEIGHTS = "weights"


def declared_fields(arm: Arm) -> list[str]:
    """The fields in which an arm says that it differs from the base, dotted."""
    fields = [f"settings.{name}" for name in leaves(arm.settings)] + [*arm.may_differ]
    if any(name.startswith(MODEL) for name in fields):
        fields.append(WEIGHTS)
    return fields


def leaves(settings: Settings, prefix: str = "") -> Iterator[str]:
    """Dotted name of each value that is no table."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def hidden_differences(study: Study, results: Sequence[RunResult]) -> dict[str, list[str]]:
    """Arm -> a sentence for each field in which its runs differ from what the study says.

    A run is set against the baseline's of the same seed and budget, and against its own arm's other
    seeds: there the seed alone may differ, and the first weights that follow from it.
    """
    found: dict[str, list[str]] = defaultdict(list)
    baseline = {(one.seed, one.budget): one for one in results if one.arm == study.baseline}
    first: dict[tuple[str, float], RunResult] = {}
    for one in results:
        pair = baseline.get((one.seed, one.budget))
        if one.arm != study.baseline and pair is not None:
            allowed = [*FREE, *declared_fields(study.arms[one.arm])]
            allowed += declared_fields(study.arms[study.baseline])
            found[one.arm] += _sentences(pair, one, allowed, "the baseline's")
        sibling = first.setdefault((one.arm, one.budget), one)
        found[one.arm] += _sentences(sibling, one, [*FREE, SEED, WEIGHTS], "another seed's")
    return {arm: sorted({*sentences}) for arm, sentences in found.items() if sentences}


def _sentences(
    expected: RunResult, found: RunResult, allowed: Sequence[str], whose: str
) -> list[str]:
    wanted, present = (_flat(one.facts) for one in (expected, found))
    return [
        f"{field} is {_short(present.get(field))}, {whose} {_short(wanted.get(field))}"
        for field in sorted({*wanted, *present})
        if wanted.get(field) != present.get(field)
        and not any(field == one or field.startswith(f"{one}.") for one in allowed)
    ]


def _flat(facts: Settings) -> dict[str, Any]:
    """Dotted name -> value. A table that one side lacks is there as its values."""
    return {name: _at(facts, name) for name in leaves(facts)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def changes(arm: Arm, base: Settings) -> list[str]:
    """What an arm changes in the base, a line each."""
    lines = []
    for name in leaves(arm.settings):
        before, after = _at(base, name), _at(arm.settings, name)
        lines.append(f"`{name}`: {before!r} → {after!r}")
    return lines


def _at(settings: Any, name: str) -> Any:
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings
