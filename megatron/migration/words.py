"""A command line of Megatron-DeepSpeed in our words."""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from megatron.config import DataConfig
from megatron.migration.tables import LEAVE_OUT, OTHER_DEFAULTS, PRETRAINING, Migration
from megatron.setting_rules import BERT_ONLY, ONLY_FOR_BERT
from megatron.tokenizer import named_tokenizer

logger = logging.getLogger(__name__)


_BERTS = [name.replace("_", "-") for name, marks in DataConfig.marks.items() if BERT_ONLY in marks]
_OF_A_GPT = replace(
    PRETRAINING,
    refused={
        "--mask-whole-words --no-mask-whole-words "
        + " ".join(f"--{name}=" for name in _BERTS if name != "mask-whole-words"): (
            ONLY_FOR_BERT,
            LEAVE_OUT,
        ),
        **PRETRAINING.refused,
    },
)


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A command line in our words."""

    words: list[str]
    told: list[str]
    """What became of flags that are theirs, a sentence each."""
    problems: list[str]
    """Flags that nothing here is like, with the reason and what to do instead."""


def pretraining_words(words: Sequence[str], *, is_bert: bool) -> list[str]:
    """A command line of a pretraining script in our words; errors as `own_words`.

    Where it has flags of theirs and names no run file, it means what it means there: what it leaves out
    has their defaults, the vocabulary is the tokenizer's, and --load may find nothing yet in the folder
    of --save.
    """
    found = own_words(words, PRETRAINING if is_bert else _OF_A_GPT)
    more = _meant_too(words, found)
    if more:
        logger.warning("as in Megatron-DeepSpeed: %s", " ".join(more))
    return [*found, *more]


def pretraining_translation(words: Sequence[str], *, is_bert: bool) -> Translation:
    """The same of a command line of Megatron-DeepSpeed, with what has no place here told and left out."""
    found = translated(words, PRETRAINING if is_bert else _OF_A_GPT)
    more = _meant_too(words, found.words)
    return replace(found, words=[*found.words, *more])


def _meant_too(words: Sequence[str], found: Sequence[str]) -> list[str]:
    """What a command line of theirs means beside what it says, in our words."""
    given = dict(_flags_and_values(found))
    if list(found) == list(words) or "--config" in given:
        return []
    added = {flag: value for flag, value in OTHER_DEFAULTS.items() if flag not in given}
    if "--vocab-size" not in given and (num_entries := _vocabulary(given)):
        added["--vocab-size"] = str(num_entries)
    may_miss = ["--allow-missing-checkpoint"]
    same_folder = "--save" in given and given.get("--load") == given["--save"]
    if not same_folder or {*may_miss, "--exit-on-missing-checkpoint"} & {*words}:
        may_miss = []
    return [word for pair in added.items() for word in pair] + may_miss


def _flags_and_values(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word, following in itertools.pairwise([*words, ""]):
        if word.startswith("--"):
            flag, has_value, value = word.partition("=")
            yield flag, value if has_value else following


def _vocabulary(given: Mapping[str, str]) -> int | None:
    """Entries of the tokenizer whose files are named, where they are there."""
    names = ("tokenizer_file", "vocab_file", "merge_file")
    files = {name: given.get(f"--{name.replace('_', '-')}") for name in names}
    if not any(files.values()) or not all(Path(file).is_file() for file in files.values() if file):
        return None
    tokenizer = named_tokenizer(SimpleNamespace(**files))
    return None if tokenizer is None else tokenizer.vocab_size


def own_words(words: Sequence[str], migration: Migration) -> list[str]:
    """A command line in our words; what was done with flags of Megatron-DeepSpeed is logged.

    Raises:
        ValueError: for flags that nothing here is like: each with the reason and what to do instead.
    """
    found = translated(words, migration)
    if found.problems:
        raise ValueError(
            "flags that have no place here (docs/migration.md says which have): "
            + " | ".join(found.problems)
        )
    if found.told:
        logger.warning("flags of Megatron-DeepSpeed: %s", " | ".join(found.told))
    return found.words


def translated(words: Sequence[str], migration: Migration) -> Translation:
    """A command line in our words, with what became of each flag that is theirs."""
    fates = dict(migration.fates())
    found: list[str] = []
    told: list[str] = []
    problems: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, has_value, value = word.partition("=")
        fate = fates.get(flag)
        if fate is None:
            found.append(word)
            continue
        values = [value] if has_value else _take_values(rest, fate.num_values)
        if len(values) != fate.num_values and (fate.num_values is not None or not values):
            problems.append(f"{flag}: {'needs a' if fate.num_values else 'takes no'} value")
        elif fate.becomes:
            ours = _filled(fate.becomes, values)
            _add(ours, found, rest)
            told.append(f"{flag}: {' '.join(ours)}, {fate.reason}")
        elif fate.holds_with is None or _are_among(values, fate.holds_with.split()):
            told.append(f"{flag}: {fate.reason}")
        else:
            problems.append(f"{' '.join([flag, *values])}: {fate.reason}; instead: {fate.instead}")
    return Translation(words=found, told=told, problems=problems)


def _take_values(rest: list[str], num_values: int | None) -> list[str]:
    values: list[str] = []
    while rest and not rest[0].startswith("--") and len(values) != num_values:
        values.append(rest.pop(0))
    return values


def _filled(ours: str, values: Sequence[str]) -> list[str]:
    parts = ([*values] if part == "{}" else [part] for part in ours.split())
    return [word for part in parts for word in part]


def _add(ours: Sequence[str], found: list[str], rest: list[str]) -> None:
    """Add words of ours; to a list of the user's own, where that flag stands there too."""
    for place in (found, rest):
        if len(ours) > 1 and ours[0] == "--override" and "--override" in place:
            place.insert(place.index("--override") + 1, ours[1])
            return
    found.extend(ours)


def _are_among(values: Sequence[str], allowed: Sequence[str]) -> bool:
    """Whether there is a value and all are allowed; "1.0" is 1."""
    plain = [value.removesuffix(".0") for value in values]
    return bool(plain) and all(value in allowed for value in plain)
