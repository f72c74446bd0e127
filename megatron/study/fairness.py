"""In what runs differ, from what they say of themselves, and whether that was declared."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megatron.study.results import RunResult
from megatron.study.study_file import Arm, Settings, Study

FREE = ("settings.checkpoint", "settings.logging", "environment.threads", "size")
"""Fields that make no other run: where it is saved, how it is watched, what follows from the others."""
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
    first: dict[tuple[str, float], RunResult] = {}
    base = declared_fields(study.arms[study.baseline])
    for pair, one in _pairs(results, study.baseline):
        allowed = [*FREE, *declared_fields(study.arms[one.arm]), *base]
        found[one.arm] += _sentences(pair, one, allowed, "the baseline's")
    for one in results:
        sibling = first.setdefault((one.arm, one.budget), one)
        found[one.arm] += _sentences(sibling, one, [*FREE, SEED, WEIGHTS], "another seed's")
    return {arm: sorted({*sentences}) for arm, sentences in found.items() if sentences}


def undeclared_differences(results: Sequence[RunResult], baseline: str) -> dict[str, list[str]]:
    """Arm -> a text for each field in which its runs differ from the baseline's, where nobody declared any."""
    found: dict[str, list[str]] = defaultdict(list)
    for pair, one in _pairs(results, baseline):
        found[one.arm] += _sentences(pair, one, FREE, "the baseline's")
    return {arm: sorted({*sentences}) for arm, sentences in found.items()}


def _pairs(results: Sequence[RunResult], baseline: str) -> Iterator[tuple[RunResult, RunResult]]:
    """The baseline's run of the same seed and budget, and the run, for each that has one."""
    base = {(one.seed, one.budget): one for one in results if one.arm == baseline}
    for one in results:
        pair = base.get((one.seed, one.budget))
        if one.arm != baseline and pair is not None:
            yield pair, one


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
    return {name: value_at(facts, name) for name in leaves(facts)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def value_at(settings: Any, name: str) -> Any:
    """What stands at a dotted name; None where nothing does."""
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings
