"""Command-line flags, generated from the dataclasses in `config/`, and the run that they and files describe."""

import argparse
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from data_efficiency import ConfigError, load_config
from data_efficiency.command_end import TRACEBACK_HELP
from data_efficiency.field_docs import field_docs
from megatron.config import (
    RUN_KINDS,
    AnyRunConfig,
    Architecture,
    FilesConfig,
    RunKind,
    SourceConfig,
    without_none,
)
from megatron.engine_json import SETTINGS_OF_KEYS, engine_json
from megatron.migration import pretraining_words
from megatron.recipes import (
    SHIPPED,
    Layer,
    analysis_commands,
    read_json_layer,
    read_run_file,
    scale_down,
)


def flag_name(field_name: str) -> str:
    """The flag of a field.

    Example:
        >>> flag_name("hidden_size")
        '--hidden-size'
    """
    if field_name == "deepspeed_config":
        return "--deepspeed_config"
    return "--" + field_name.replace("_", "-")


def make_parser(
    description: str,
    groups: Mapping[str, type] = RUN_KINDS["gpt"].groups,
    defaults: Mapping[str, Any] | None = None,
) -> argparse.ArgumentParser:
    """A parser with one titled group of flags for each dataclass; abbreviations are refused.

    What it parses has the flags that were given, and no others.

    Args:
        groups: title -> dataclass.
        defaults: of some fields, instead of the dataclasses' own, for the help.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=TRACEBACK_HELP,
        allow_abbrev=False,
    )
    for name, config_class in groups.items():
        group = parser.add_argument_group(name, inspect.getdoc(config_class))
        hints = get_type_hints(config_class)
        for field in fields(config_class):
            default = (defaults or {}).get(field.name, field.default)
            _add_flag(
                group, field, hints[field.name], field_docs(config_class)[field.name], default
            )
    return parser


def parse_run_config(
    description: str,
    argv: Sequence[str] | None = None,
    *,
    architecture: Architecture = "gpt",
    json_of: Callable[[Any], dict[str, Any]] = engine_json,
    **defaults: Any,
) -> Any:
    """The settings of a run, `RUN_KINDS[architecture].run`, from the command line and the files that it names.

    `--print-json` prints what the engine gets, and `--config list` the shipped run files; both exit.

    Args:
        architecture: of the script; a run file of another one is refused.
        json_of: what the engine gets of a run.
        defaults: of some fields, instead of the dataclasses' own.

    Raises:
        ValueError: for values that break a rule, and for flags of Megatron-DeepSpeed that are not here;
            argparse itself exits for flags it cannot read.
    """
    kind = RUN_KINDS[architecture]
    is_pretraining = architecture in ("gpt", "bert")
    sources: type[SourceConfig] = FilesConfig if is_pretraining else SourceConfig
    parser = make_parser(description, {"files": sources, **kind.groups}, defaults)
    words = list(sys.argv[1:] if argv is None else argv)
    if is_pretraining:
        words = pretraining_words(words, is_bert=architecture == "bert")
    given = vars(parser.parse_args(words))
    files = sources(
        **{each.name: given.pop(each.name) for each in fields(sources) if each.name in given}
    )
    if files.config == "list":
        print(SHIPPED.listing(architecture))
        raise SystemExit(0)
    config = _run_config(files, given, architecture, Layer(settings=defaults))
    if files.print_json:
        content = json_of(config)
        load_config(content)
        print(json.dumps(content, indent=2))
    if isinstance(files, FilesConfig) and files.print_analysis:
        print("".join(shlex.join(command) + "\n" for command in analysis_commands(config)), end="")
    if files.print_json or (isinstance(files, FilesConfig) and files.print_analysis):
        raise SystemExit(0)
    return config


def _run_config(
    files: SourceConfig, given: Mapping[str, Any], architecture: Architecture, layer: Layer
) -> Any:
    """Defaults, run file, DeepSpeed's file and flags laid over each other, in this order."""
    kind = RUN_KINDS[architecture]
    of_pretraining = files if isinstance(files, FilesConfig) else FilesConfig()
    model = of_pretraining.model
    if model is not None and files.config is None:
        raise ConfigError(f"--model is {model!r}: it changes a run file; name one by --config")
    if files.config is not None:
        layer = layer.under(read_run_file(SHIPPED, files.config, model=model))
        if layer.architecture not in (None, architecture):
            raise ConfigError(
                f"--config {files.config} is of a {layer.architecture}: start it with "
                f"{RUN_KINDS[layer.architecture].script}"
            )
    if files.deepspeed_config is not None:
        published = read_json_layer(files.deepspeed_config, kind)
        _refuse_contradictions(published.settings, given, files.deepspeed_config)
        layer = layer.under(published)
    if of_pretraining.scale_down:
        place = {"data_path": ("corpus",), **layer.settings}
        layer = layer.under(scale_down(run_config_from(place, layer)))  # type: ignore[arg-type]
    layer = layer.under(Layer(architecture=architecture, settings=given))
    settings = dict(layer.settings)
    if files.config is not None:
        settings.setdefault("save", f"runs/{Path(files.config).stem}")
        if "load" in kind.table_of and settings.get("load") is None:
            settings["load"] = settings["save"]
            settings.setdefault("allow_missing_checkpoint", True)
    return run_config_from(settings, layer)


def _refuse_contradictions(written: Mapping[str, Any], given: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError where a flag that was given says something else than DeepSpeed's file."""
    for key, name in SETTINGS_OF_KEYS.items():
        if name in written and name in given and written[name] != given[name]:
            raise ConfigError(
                f"{key} is {written[name]!r} in {path}, but {flag_name(name)} is {given[name]!r}: make them "
                'equal, leave out the flag, or write "auto" in the file'
            )


def run_config_from(settings: Mapping[str, Any], layer: Layer) -> AnyRunConfig:
    """A run of settings by name, whatever their group, and of a layer's architecture and sections.

    Raises:
        ValueError: naming all that is missing, or a value that breaks a rule.
    """
    architecture = layer.architecture or "gpt"
    kind: RunKind = RUN_KINDS[architecture]
    needed = {
        field.name
        for group in kind.groups.values()
        for field in fields(group)
        if field.default is MISSING
    }
    missing = [flag_name(name) for name in sorted(needed - set(settings))]
    ends = [f"train_{unit}" for unit in ("iters", "samples", "tokens")]
    if ends[0] in kind.table_of and not any(settings.get(end) for end in ends):
        missing.append("one of --train-iters, --train-samples and --train-tokens")
    if missing:
        raise ValueError(f"not given: {', '.join(missing)}")
    parts = {}
    for name, config_class in kind.groups.items():
        read = {
            field.name: settings[field.name]
            for field in fields(config_class)
            if field.name in settings
        }
        frozen = {
            key: tuple(value) if isinstance(value, list) else value for key, value in read.items()
        }
        parts[name] = config_class(**frozen)
    return kind.run(**parts, architecture=architecture, **layer.sections)  # type: ignore[arg-type]


def _add_flag(group: Any, field: Field[Any], hint: Any, doc: str, default: Any) -> None:
    if default not in (MISSING, None, ()):
        doc += f" Default: {default}."
    settings: dict[str, Any] = {
        "dest": field.name,
        "help": doc.replace("%", "%%"),
        "default": argparse.SUPPRESS,
    }
    kind = without_none(hint)
    if kind is bool:
        settings["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
        settings["type"] = type(settings["choices"][0])
    elif get_origin(kind) is tuple:
        settings["nargs"] = "+"
        [part, *_] = get_args(kind)
        is_choice = get_origin(part) is Literal
        if is_choice:
            settings["choices"] = get_args(part)
        elif part is int:
            settings |= {"type": _whole_number, "metavar": "N"}
        else:
            settings["metavar"] = "TEXT"
    else:
        settings |= {
            "type": _whole_number if kind is int else kind,
            "metavar": {int: "N", float: "X", str: "TEXT"}[kind],
        }
    group.add_argument(flag_name(field.name), **settings)


def _whole_number(text: str) -> int:
    """An int; 300_000 and 3e5 are understood."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)
