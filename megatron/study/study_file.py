"""A study file: which arms, seeds and budgets, what is prepared for all, and what differs.

[study]
title = "Does a curriculum save tokens?"
base = "gpt.toml"                     # the run file that every arm starts from
seeds = [1, 2, 3]
budgets = [0.25, 0.5, 1.0]            # of the base's budget; all of them for the baseline

[[prepare]]                           # once for all runs, in this order
name = "corpus"
makes = "{output}/corpus.jsonl"
command = ["tools/prepare_demo_corpus.py", "--output", "{output}/corpus.jsonl"]

[arms.baseline]

[arms.curriculum]                     # an arm's settings, as they stand in a run file
training.lr = 1e-3

[values]                              # what a {name} anywhere in these files stands for,
corpus = ""                           # beside {output}, the study's folder, and in a run {seed}

[each.data]                           # all of it for each of these values, compared within each
task = ["RTE", "CoLA"]

With `[study] like = "other.toml"` it has that file's tables and head where it has none of its own, but for its title, question,
output, results and pilot.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from data_efficiency import ConfigError
from data_efficiency.json_section import refuse_unknown
from megatron.config import without_none
from megatron.nested_keys import merged
from megatron.recipes import read_toml

Settings = Mapping[str, Any]
"""A run file's content: section -> key -> value, deeper in `data_efficiency`."""

RUN_AMOUNTS = (
    *("train_iters", "train_samples", "train_tokens"),
    *("lr_decay_iters", "lr_decay_samples", "lr_decay_tokens"),
    *("lr_wsd_decay_iters", "lr_wsd_decay_samples", "lr_wsd_decay_tokens"),
    *("lr_warmup_iters", "lr_warmup_samples", "lr_warmup_tokens"),
    *("total_curriculum_step", "require_steps", "full_from_step", "num_steps", "pass_samples"),
    *("max_step", "at_samples", "at_tokens"),
    *("eval_interval", "epochs"),
)
"""Keys, wherever they stand, that a budget scales, a number or a list: so each run's rate and schedules come to their end."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is made once for all runs."""

    name: str
    makes: str
    """Path of what it makes."""
    command: Sequence[str]
    """A script of this project with its flags."""
    reads: Sequence[str] = ()
    """Files: where one changes, the stage and all after it run again."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A variant: what it changes in the base."""

    name: str
    settings: Settings
    like: Sequence[str] = ()
    """Other arms whose changes it makes too, before its own."""
    budgets: Sequence[float] = (1.0,)
    seeds: Sequence[int] | None = None
    """None: those of the study."""
    scoring_flops: float = 0.0
    """Operations spent outside of the run for it, as a reference model that scores the samples."""
    may_differ: Sequence[str] = ()
    """Further fields (beginnings of dotted names) in which it may differ from the baseline."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything a study file says."""

    path: Path
    base: str
    """Run file, relative to the study's, or the name of a shipped recipe."""
    output: Path
    title: str = ""
    question: str = ""
    program: str = ""
    """Script that trains: `SCRIPT --config RUN.toml`. Empty: that of the base's architecture."""
    measure: str = ""
    """Name of what the runs are judged by. Empty: what their logs name first."""
    seeds: Sequence[int] = (1234,)
    budgets: Sequence[float] = (1.0,)
    """Of the baseline, as shares of the base's budget; the other arms have 1 alone if they name none."""
    baseline: str = "baseline"
    beside: Sequence[str] = ()
    """Further arms that all others are set against, as the baseline: controls."""
    scaled: Sequence[str] = RUN_AMOUNTS
    """Keys that a budget scales."""
    pilot: str = ""
    """A study file beside this one, which has an `[each]`: of its values each arm takes the one that was best there."""
    results: str | None = None
    """Folder beside the study's file that keeps the report and the results of finished runs: these need not
    run again elsewhere."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What `{name}` stands for: `[values]` of the file, and `output`; in a run's settings `seed` is its seed."""
    prepare: Sequence[Stage] = ()
    arms: Mapping[str, Arm] = field(default_factory=dict)
    cases: Mapping[str, Settings] = field(default_factory=lambda: {"": {}})
    """Value of the setting of `[each]` -> that setting; one without a name where the file has none."""

    @property
    def results_folder(self) -> Path | None:
        """`results` as a path."""
        return None if self.results is None else self.path.parent / self.results

    def seeds_of(self, arm: Arm) -> Sequence[int]:
        """The seeds that an arm is trained with."""
        return self.seeds if arm.seeds is None else arm.seeds


def read_study(
    path: Path,
    *,
    seeds: Sequence[int] | None = None,
    output: Path | None = None,
    values: Mapping[str, str] | None = None,
) -> Study:
    """The study of a file.

    Args:
        seeds: instead of the file's.
        output: folder of its runs, instead of the file's.
        values: instead of the file's of the same names.

    Raises:
        ConfigError: for an unknown or missing key, or a value that cannot be right, by its name.
        FileNotFoundError: if there is no such file.
    """
    content, place = _with_the_other(path), path.name
    head = dict(content.get("study", {}))
    if seeds:
        head["seeds"] = seeds
    written = head.pop("output", str(Path("runs") / path.stem))
    own = content.get("values", {})
    texts = {"[study]: output": written}
    texts |= {f"[values]: {key}": value for key, value in (values or {}).items()}
    texts |= {f"[values]: {key}": value for key, value in own.items()}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise ConfigError(f"{place}: {key} is {value!r}: must be a text")
    folder = Path(written) if output is None else output
    if "seed" in own:
        raise ConfigError(
            f"{place}: [values] has seed, which is each run's own: choose another name"
        )
    for key in values or {}:
        refuse_unknown(key, list(own), f"{place}: [values]")
    named = _Place(place)
    arms = content.get("arms", {})
    study = named.made(
        Study,
        head,
        "[study]",
        path=path,
        output=folder,
        values={**own, **(values or {}), "output": str(folder)},
        prepare=tuple(
            named.made(Stage, stage, f"[[prepare]] {number}")
            for number, stage in enumerate(content.get("prepare", ()), 1)
        ),
        arms={name: _read_arm(named, name, dict(content), head) for name, content in arms.items()},
        cases=_cases(content.get("each", {}), place),
    )
    _check(study)
    whole = {
        name: replace(arm, settings=_settings_of(study, arm, ()))
        for name, arm in study.arms.items()
    }
    return replace(study, arms=whole)


def _with_the_other(path: Path) -> dict[str, Any]:
    """The tables of a file, and what it does not say itself from the one that it is like."""
    content = read_toml(path)
    _check_tables(content, path.name)
    head = dict(content.get("study", {}))
    if "like" not in head:
        return content
    other = head.pop("like")
    if not isinstance(other, str) or other == path.name:
        raise ConfigError(
            f"{path.name}: [study] like is {other!r}: must be another study file beside this one"
        )
    found = read_toml(path.parent / other)
    _check_tables(found, other)
    shared = dict(found.get("study", {}))
    if "like" in shared:
        raise ConfigError(f"{path.name}: [study] like is {other!r}: it is like another itself")
    for name in ("title", "question", "output", "results", "pilot"):
        shared.pop(name, None)
    return {**found, **content, "study": {**shared, **head}}


def _check_tables(content: Settings, place: str) -> None:
    """Raise ConfigError unless the file has known tables only, each of its kind."""
    for key in content:
        refuse_unknown(key, ("study", "prepare", "arms", "values", "each"), place)
    for key in ("study", "arms", "values", "each"):
        _check_table(place, key, content.get(key, {}))
    for name, arm in content.get("arms", {}).items():
        _check_table(place, f"arms.{name}", arm)
    if not isinstance(content.get("prepare", []), list):
        raise ConfigError(
            f"{place}: prepare is {content['prepare']!r}: must be tables, [[prepare]]"
        )


def _cases(each: Settings, place: str) -> Mapping[str, Settings]:
    """The values of `[each]`'s one setting, by their names."""
    if not each:
        return {"": {}}
    tables = [table for table in each.values() if isinstance(table, Mapping)]
    if len(each) != 1 or len(tables) != 1 or len(tables[0]) != 1:
        raise ConfigError(
            f"{place}: [each] is {each!r}: must have one table with one setting, as [each.data] task"
        )
    [(table, settings)] = each.items()
    [(name, values)] = settings.items()
    if not isinstance(values, list) or not values or len({*map(str, values)}) != len(values):
        raise ConfigError(
            f"{place}: [each.{table}] {name} is {values!r}: must be a list of values, each once"
        )
    _check_names(map(str, values), f"{place}: [each.{table}] {name}")
    return {str(value): {table: {name: value}} for value in values}


def _check_names(names: Iterable[str], place: str) -> None:
    """Raise ConfigError unless each can name a folder."""
    for name in names:
        if not set(name) <= _NAME_LETTERS:
            raise ConfigError(f"{place} {name!r}: it names a folder; take letters, digits, - and _")


def _check_table(place: str, name: str, content: object) -> None:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{place}: {name} is {content!r}: must be a table")


def _settings_of(study: Study, arm: Arm, readers: tuple[str, ...]) -> Settings:
    """What an arm changes, with the changes of those it is like."""
    found: Settings = {}
    for name in arm.like:
        if name not in study.arms or name in (*readers, arm.name):
            raise ConfigError(
                f"{study.path.name}: arm {arm.name!r} is like {name!r}: must be another arm, not like it"
            )
        found = merged(found, _settings_of(study, study.arms[name], (*readers, arm.name)))
    return merged(found, arm.settings)


def _read_arm(named: "_Place", name: str, content: dict[str, Any], head: Settings) -> Arm:
    own = {key: content.pop(key) for key in _names(Arm) - {"name", "settings"} if key in content}
    if name == head.get("baseline", "baseline"):
        own = {"budgets": head.get("budgets", (1.0,)), **own}
    return named.made(Arm, own, f"[arms.{name}]", name=name, settings=content)


def _check(study: Study) -> None:
    """Raise ConfigError for a study that cannot be carried out."""
    place = study.path.name
    if study.baseline not in study.arms:
        raise ConfigError(
            f"{place}: baseline is {study.baseline!r}: must be one of the arms, which are "
            f"{', '.join(study.arms) or 'none'}"
        )
    for name in study.beside:
        refuse_unknown(name, list(study.arms), f"{place}: [study] beside")
    for arm in study.arms.values():
        for key, values in (("seeds", study.seeds_of(arm)), ("budgets", arm.budgets)):
            if not values or len({*values}) != len(values):
                raise ConfigError(
                    f"{place}: {key} of arm {arm.name!r} is {list(values)}: must be one value or more, "
                    "each once"
                )
        if min(arm.budgets) <= 0:
            raise ConfigError(f"{place}: budgets of arm {arm.name!r}: must be positive")
    _check_names(study.arms, f"{place}: arm")


_NAME_LETTERS = {*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."}


@dataclass(frozen=True)
class _Place:
    """A file's name, for its errors."""

    file: str

    def made(self, kind: Any, content: Any, table: str, **more: Any) -> Any:
        """A dataclass of a table's content, each value of the kind its field has."""
        place = f"{self.file}: {table}"
        if not isinstance(content, Mapping):
            raise ConfigError(f"{place} is {content!r}: must be a table")
        for name in content:
            refuse_unknown(name, sorted(_names(kind) - {*more}), place)
        known = {one.name: one for one in fields(kind)}
        for name, value in content.items():
            _check_kind(f"{place}: {name}", known[name].type, value)
        missing = [
            one.name
            for one in fields(kind)
            if one.default is MISSING
            and one.default_factory is MISSING
            and one.name not in {*content, *more}
        ]
        if missing:
            raise ConfigError(f"{place} lacks {', '.join(missing)}")
        return kind(**{**content, **more})


def _names(kind: Any) -> set[str]:
    return {one.name for one in fields(kind)}


_KINDS: Mapping[Any, tuple[str, Any]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    float: ("a number", lambda value: _is_number(value)),
    Sequence[str]: ("a list of texts", lambda value: _all(value, lambda one: type(one) is str)),
    Sequence[int]: (
        "a list of whole numbers",
        lambda value: _all(value, lambda one: type(one) is int),
    ),
    Sequence[float]: ("a list of numbers", lambda value: _all(value, _is_number)),
}


def _check_kind(name: str, hint: Any, value: Any) -> None:
    words, fits = _KINDS[without_none(hint)]
    if not fits(value):
        raise ConfigError(f"{name} is {value!r}: must be {words}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _all(value: Any, fits: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(fits, value))


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """A value with `{name}` in its texts replaced; texts of a list that name an empty value are left out.

    Example:
        >>> filled(["--save", "{output}/a", "--input={corpus}"], {"output": "runs", "corpus": ""})
        ['--save', 'runs/a']
    """
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, Mapping):
        return {key: filled(below, values) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        empty = [f"{{{name}}}" for name, text in values.items() if not text]
        kept = [one for one in value if not (isinstance(one, str) and any(e in one for e in empty))]
        return type(value)(filled(one, values) for one in kept)
    return value


def _part_of(value: Any, share: float, has_parts: bool) -> Any:
    if isinstance(value, list):
        return [_part_of(each, share, has_parts) for each in value]
    if not value or not _is_number(value):
        return value
    return value * share if has_parts and isinstance(value, float) else max(1, round(value * share))


def scaled_by(settings: Settings, share: float, keys: Sequence[str]) -> dict[str, Any]:
    """The settings with the numbers of some keys multiplied, to whole numbers of 1 at least; epochs may be parts.

    Example:
        >>> scaled_by({"training": {"train_tokens": 1000, "lr": 1.0}}, 0.25, ["train_tokens"])
        {'training': {'train_tokens': 250, 'lr': 1.0}}
    """
    found = dict(settings)
    for key, value in settings.items() if share != 1 else ():
        if isinstance(value, Mapping):
            found[key] = scaled_by(value, share, keys)
        elif key in keys:
            found[key] = _part_of(value, share, key == "epochs")
    return found
