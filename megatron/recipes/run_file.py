"""Run files: a run's settings and sections in TOML, in one file or laid over the files it builds on.

A table is a group of settings (`[training] lr = 1e-3`), or a part of DeepSpeed's JSON file:
`[data_efficiency]` with the keys of that section, `[engine]` with other sections, `[deepspeed]` with those
that count with --deepspeed only. `[[stages]]` divide a pretraining run. `base = [...]` names files below it, by the name of a shipped one or by a
path from its own folder. `architecture` says which settings there are: `RUN_KINDS` of `megatron.config`.
"""

import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from data_efficiency import ConfigError
from data_efficiency.config import read_json
from data_efficiency.json_section import refuse_unknown
from megatron.config import (
    RUN_KINDS,
    SECTIONS,
    AnyRunConfig,
    RunConfig,
    RunKind,
    Stage,
    read_stages,
    without_none,
)
from megatron.engine_json import settings_of
from megatron.nested_keys import merged
from megatron.recipes.catalogue import Catalogue

EITHER = (
    ("bf16", "fp16"),
    ("lr_decay_iters", "lr_decay_samples", "lr_decay_tokens"),
    ("lr_wsd_decay_iters", "lr_wsd_decay_samples", "lr_wsd_decay_tokens"),
    ("lr_warmup_iters", "lr_warmup_samples", "lr_warmup_tokens"),
    ("save_interval", "num_checkpoints"),
)
"""Settings of which one stands for all: what lies above lifts the others below."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one source says of a run; layers are laid over each other."""

    architecture: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Field -> value, whatever its group."""
    sections: Mapping[str, Any] = field(default_factory=dict)
    """`SECTIONS` that it has something of, and its `stages`, all of them or none."""

    def under(self, above: "Layer") -> "Layer":
        """Both as one; what the other says counts.

        Raises:
            ConfigError: if they are of different architectures.
        """
        if self.architecture and above.architecture not in (None, self.architecture):
            raise ConfigError(
                f"files of a {self.architecture} and of a {above.architecture} are mixed"
            )
        lifted = {
            name
            for names in EITHER
            if any(above.settings.get(name) for name in names)
            for name in names
        }
        below = {name: value for name, value in self.settings.items() if name not in lifted}
        return Layer(
            architecture=above.architecture or self.architecture,
            settings={**below, **above.settings},
            sections=merged(self.sections, above.sections),
        )


def read_run_file(catalogue: Catalogue, name: str, *, model: str | None = None) -> Layer:
    """What the run file of a name or path says, with all that it builds on.

    Args:
        model: name or path of a model's file that stands for the one in the bases.

    Raises:
        ConfigError: for an unknown name, key or value, or a file that is not TOML.
    """
    model_file = None if model is None else catalogue.path(model, "model")
    path = catalogue.path(name)
    architecture = _architecture_of(catalogue, path, ()) or "gpt"
    return _read(catalogue, path, model_file, RUN_KINDS[architecture], ())


def read_json_layer(path: str, kind: RunKind = RUN_KINDS["gpt"]) -> Layer:
    """What a file in DeepSpeed's form says.

    Raises:
        ConfigError: for a file that is no JSON object, or a value of a wrong type.
    """
    found, left = settings_of(read_json(path), path)
    settings = {name: _typed(kind, name, value, path) for name, value in found.items()}
    section = left.pop("data_efficiency", None) or {}
    return Layer(settings=settings, sections={"data_efficiency": section, "engine": left})


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: if it is not valid, with the line.
        FileNotFoundError: if there is none.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except TypeError:
        raise ConfigError(f"{path} has a date or a time, which no setting is: use quotes") from None
    return content


def _read(
    catalogue: Catalogue, path: Path, model: Path | None, kind: RunKind, readers: tuple[Path, ...]
) -> Layer:
    content = read_toml(path)
    layer = Layer()
    for file in _bases(catalogue, path, content.pop("base", []), readers):
        named = model if model is not None and file.parent.name == "models" else file
        layer = layer.under(_read(catalogue, named, model, kind, (*readers, path)))
    return layer.under(layer_of(content, path.name, kind))


def _bases(
    catalogue: Catalogue, path: Path, names: object, readers: tuple[Path, ...]
) -> Iterator[Path]:
    """The files that a file builds on."""
    if path in readers:
        raise ConfigError(f"{path} builds on itself: base names it again")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path.name}: base is {names!r}: must be a list of files")
    for name in names:
        beside = path.parent / name
        file = beside if name.endswith(".toml") else catalogue.path(name)
        if not file.is_file():
            raise ConfigError(f"{path.name}: base names {name!r}, but there is no {beside}")
        yield file


def _architecture_of(catalogue: Catalogue, path: Path, readers: tuple[Path, ...]) -> str | None:
    """What the file, or the first that it builds on and that says so, names as its architecture."""
    content = read_toml(path)
    found: str | None = _architecture(content, path.name)
    bases = _bases(catalogue, path, content.get("base", []), readers)
    below = (_architecture_of(catalogue, base, (*readers, path)) for base in bases)
    return found or next(filter(None, below), None)


def _architecture(content: Mapping[str, Any], place: str) -> Any:
    found = content.get("architecture")
    if found is not None and found not in (*RUN_KINDS,):
        raise ConfigError(
            f"{place}: architecture is {found!r}: must be one of {', '.join(RUN_KINDS)}"
        )
    return found


def layer_of(content: Mapping[str, Any], place: str, kind: RunKind = RUN_KINDS["gpt"]) -> Layer:
    """What the content of a run file without bases says.

    Args:
        place: what to call it in an error.
        kind: of the run.
    """
    lists = ("stages",) if kind.has_stages else ()
    _refuse_keys(content, ("architecture", "base", *lists, *kind.groups, *SECTIONS), place, kind)
    for name in (*kind.groups, *SECTIONS):
        if not isinstance(content.get(name, {}), Mapping):
            raise ConfigError(f"{place}: {name} is {content[name]!r}: must be a table")
    architecture = _architecture(content, place)
    settings: dict[str, Any] = {}
    for name, group in kind.groups.items():
        where = f"{place}: [{name}]"
        _refuse_keys(content.get(name, {}), [each.name for each in fields(group)], where, kind)
        for key, value in content.get(name, {}).items():
            settings[key] = _typed(kind, key, value, where)
    sections = {name: content[name] for name in SECTIONS if name in content}
    raw = {"data_efficiency": sections.get("data_efficiency", {}), **sections.get("engine", {})}
    found, left = settings_of(raw, place)
    for name, value in found.items():
        if settings.setdefault(name, _typed(kind, name, value, place)) != value:
            raise ConfigError(
                f"{place}: {name} is {settings[name]!r} in [{kind.table_of[name]}], but {value!r} in a section "
                "of DeepSpeed's file: write it once"
            )
    twice, _ = settings_of(sections.get("deepspeed", {}), place)
    if twice:
        [name, *_] = twice
        raise ConfigError(f"{place}: [deepspeed] has what is {name} in [{kind.table_of[name]}]")
    sections |= {"data_efficiency": left.pop("data_efficiency"), "engine": left}
    if "stages" in content:
        _refuse_settings_of_runs(content["stages"], place, kind)
        sections["stages"] = read_stages(content["stages"], f"{place}: stages")
    return Layer(
        architecture=architecture,
        settings=settings,
        sections={name: section for name, section in sections.items() if section},
    )


def _refuse_settings_of_runs(stages: Any, place: str, kind: RunKind) -> None:
    """Raise ConfigError for what a stage would change and a run has once."""
    own = [one.name for one in fields(Stage)]
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        for key, value in stage.items() if isinstance(stage, Mapping) else ():
            if key in kind.table_of and key not in own:
                raise ConfigError(
                    f"{place}: stages[{number}].{key} is {value!r}: no stage can change it, a run has one; write it in "
                    f"[{kind.table_of[key]}]"
                )


def _refuse_keys(names: Iterable[str], known: Sequence[str], place: str, kind: RunKind) -> None:
    """Raise ConfigError for the first name that is not known, with the table it belongs to or the nearest."""
    for name in names:
        if name in kind.table_of and name not in known:
            raise ConfigError(f"{place}: {name!r} belongs into [{kind.table_of[name]}]")
        refuse_unknown(name, known, place)


def _typed(run: RunKind, name: str, value: Any, place: str) -> Any:
    """The value of a setting, of the type of its field."""
    kind = _kind_of(run, name, value, place)
    if get_origin(kind) is tuple:
        return _typed_list(get_args(kind)[0], name, value, place)
    if get_origin(kind) is Literal:
        if value in get_args(kind) and not isinstance(value, bool):
            return value
        rule = f"must be one of {', '.join(map(str, get_args(kind)))}"
    elif kind in (int, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if kind is float:
                return float(value)
            if math.isfinite(value) and int(value) == value:
                return int(value)
        rule = "must be a whole number" if kind is int else "must be a number"
    else:
        if isinstance(value, kind):
            return value
        rule = "must be true or false" if kind is bool else "must be a text"
    raise ConfigError(f"{place} {name} is {value!r}: {rule}")


def _typed_list(part: Any, name: str, value: Any, place: str) -> tuple[Any, ...]:
    """The value of a setting that has several of a type."""
    values = value if isinstance(value, list) else [value]
    choices = get_args(part) if get_origin(part) is Literal else None
    if part is int:
        if all(type(each) in (int, float) and each % 1 == 0 for each in values):
            return tuple(map(int, values))
        rule = "must be a list of whole numbers"
    else:
        if all(isinstance(each, str) and (not choices or each in choices) for each in values):
            return tuple(values)
        rule = f"must be of {', '.join(choices)}" if choices else "must be a list of texts"
    raise ConfigError(f"{place} {name} is {value!r}: {rule}")


def _kind_of(run: RunKind, name: str, value: Any, place: str) -> Any:
    """The type of a setting's field; a file of DeepSpeed's may have one that such a run does not have."""
    if name not in run.hints:
        raise ConfigError(f"{place} {name} is {value!r}: {run.script} has no such setting")
    return without_none(run.hints[name])


def write_run_file(config: AnyRunConfig, command: str) -> str:
    """The text of the file that repeats a run; it goes on in the run's own folder.

    Args:
        command: what starts it, for the comment above.
    """
    content: dict[str, Any] = {"architecture": config.architecture}
    own_folder = {"allow_missing_checkpoint", "override"}
    if vars(config.checkpoint).get("load") == config.checkpoint.save:
        own_folder.add("load")
    if isinstance(config, RunConfig) and config.stages:
        content["stages"] = [
            {key: value for key, value in vars(stage).items() if value is not None}
            for stage in config.stages
        ]
    for name in RUN_KINDS[config.architecture].groups:
        content[name] = {
            key: value
            for key, value in vars(getattr(config, name)).items()
            if value is not None and key not in own_folder
        }
    for name in SECTIONS:
        if getattr(config, name):
            content[name] = getattr(config, name)
    return "\n".join([f"# {command}", *_toml_lines(content, ())]) + "\n"


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """A table's values, then each table in it under its own heading; None is left out."""
    for key, value in table.items():
        if value is not None and not isinstance(value, Mapping):
            yield f"{_key(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = (*path, _key(key))
            if not value or any(not isinstance(each, Mapping) for each in value.values()):
                yield from ("", f"[{'.'.join(inner)}]")
            yield from _toml_lines(value, inner)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (
            f"{_key(key)} = {_toml_value(each)}" for key, each in value.items() if each is not None
        )
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if is_bare else _toml_value(key)
