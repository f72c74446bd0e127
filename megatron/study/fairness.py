"""In what runs differ, from what they say of themselves, and whether that was declared."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from megatron.nested_keys import merged
from megatron.study.results import RunKey, RunResult
from megatron.study.study_file import Settings

FREE = (
    *("settings.checkpoint", "settings.logging", "settings.training.micro_batch_size"),
    *("environment.git_commit", "environment.num_threads", "size"),
)
"""Fields that make no other run: where it is saved, how it is watched, how a batch is cut, what follows from
others. The code counts by its checksum, not by its commit."""
SEED = "settings.training.seed"
FOLLOWS = {"model": "weights", "data": "data"}
"""Group of settings -> the fact that differs where it does."""


def hidden_differences(
    results: Sequence[RunResult],
    expected: Mapping[RunKey, Settings],
    baseline: str,
    may_differ: Mapping[str, Sequence[str]],
    defaults: Mapping[RunKey, Settings] = MappingProxyType({}),
) -> dict[str, list[str]]:
    """Arm -> a sentence for each field in which its runs are not what the study file says.

    A run's settings must be those of the file. Machine, code, data and first weights must be the
    baseline's of the same seed and budget, and but for the weights those of the arm's other seeds.

    Args:
        expected: the settings of every run, by groups.
        may_differ: arm -> further fields (beginnings of dotted names) in which it may differ, from the baseline and
            from seed to seed.
        defaults: what a setting is that a run does not name: it is older than the setting.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for one in results:
        found[one.arm] += unlike(expected[one.key], one, defaults.get(one.key, {}))
    for pair, one in _pairs(results, baseline):
        own, base = (expected[each.key] for each in (one, pair))
        follow = [fact for group, fact in FOLLOWS.items() if own.get(group) != base.get(group)]
        allowed = [*FREE, *follow, *may_differ.get(one.arm, ())]
        found[one.arm] += _sentences(_facts(pair), _facts(one), allowed, "the baseline's")
    first: dict[tuple[str, float], RunResult] = {}
    for one in results:
        sibling = first.setdefault((one.arm, one.budget), one)
        allowed = [*FREE, "weights", *may_differ.get(one.arm, ())]
        found[one.arm] += _sentences(_facts(sibling), _facts(one), allowed, "another seed's")
    return {arm: sorted({*sentences}) for arm, sentences in found.items() if sentences}


def unlike(expected: Settings, result: RunResult, defaults: Settings) -> list[str]:
    """A sentence for each setting of a run that is not what the study file says.

    Args:
        defaults: of settings that the run does not name.
    """
    return _sentences(
        {"settings": expected},
        {"settings": merged(defaults, result.facts["settings"])},
        FREE,
        "the study's",
        unset_is_free=True,
    )


def undeclared_differences(results: Sequence[RunResult], baseline: str) -> dict[str, list[str]]:
    """Arm -> a text for each field in which its runs differ from the baseline's, where nobody declared any."""
    found: dict[str, list[str]] = defaultdict(list)
    for pair, one in _pairs(results, baseline):
        found[one.arm] += _sentences(pair.facts, one.facts, FREE, "the baseline's")
    return {arm: sorted({*sentences}) for arm, sentences in found.items()}


def changes(expected: Settings, base: Settings, table: str = "") -> list[str]:
    """What one run's settings change in another's, a text each; a table that only one has is one change."""
    texts = []
    for key in sorted({*expected, *base}):
        name, own, other = f"{table}{key}", expected.get(key), base.get(key)
        free = any(f"settings.{name}".startswith(one) for one in (*FREE, SEED))
        if free or own == other:
            continue
        if isinstance(own, Mapping) and isinstance(other, Mapping):
            texts += changes(own, other, f"{name}.")
        elif isinstance(own, Mapping) or isinstance(other, Mapping):
            texts.append(
                f"`{name}`: {'another' if own and other else 'added' if own else 'left out'}"
            )
        else:
            texts.append(f"`{name}`: {_short(other)} → {_short(own)}")
    return texts


def _pairs(results: Sequence[RunResult], baseline: str) -> Iterator[tuple[RunResult, RunResult]]:
    """The baseline's run of the same seed and budget, and the run, for each that has one."""
    base = {(one.seed, one.budget): one for one in results if one.arm == baseline}
    for one in results:
        pair = base.get((one.seed, one.budget))
        if one.arm != baseline and pair is not None:
            yield pair, one


def _facts(result: RunResult) -> dict[str, Any]:
    """All but the settings."""
    return {name: fact for name, fact in result.facts.items() if name != "settings"}


def _sentences(
    expected: Settings,
    found: Settings,
    allowed: Sequence[str],
    whose: str,
    *,
    unset_is_free: bool = False,
) -> list[str]:
    wanted, present = _flat(expected), _flat(found)
    return [
        f"{field} is {_short(present.get(field))}, {whose} {_short(wanted.get(field))}"
        for field in sorted({*wanted, *present})
        if wanted.get(field) != present.get(field)
        and not (unset_is_free and field in wanted and wanted[field] is None)
        and not any(field == one or field.startswith(f"{one}.") for one in allowed)
    ]


def _flat(facts: Settings, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, of each value that is no table; lists and tuples are alike."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
