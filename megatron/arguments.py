"""Command-line flags, generated from the dataclasses in `config.py`."""

import argparse
import ast
import functools
import inspect
import itertools
import math
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from megatron.config import CONFIG_GROUPS, RunConfig
from megatron.migration import pretraining_words
from megatron.setting_rules import require


def flag_name(field_name: str) -> str:
    """The flag of a field.

    Example:
        >>> flag_name("hidden_size")
        '--hidden-size'
    """
    if field_name == "deepspeed_config":
        return "--deepspeed_config"
    return "--" + field_name.replace("_", "-")


@functools.cache
def field_docs(config_class: type) -> dict[str, str]:
    """Field name -> the docstring written below the field, as one line."""
    tree = ast.parse(inspect.getsource(config_class)).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(below.value.value).split())
    return docs


class CommandParser(argparse.ArgumentParser):
    """A parser without abbreviations that takes no empty text, no negative number but a seed, and no NaN.

    `--help` begins with the description as it stands.
    """

    may_be_empty: tuple[str, ...] = ()
    """Flags whose empty text means something."""

    def __init__(self, **settings: Any) -> None:
        shape: dict[str, Any] = {
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
        super().__init__(**(shape | settings))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's.

        Raises:
            ValueError: for such a value.
        """
        words = sys.argv[1:] if args is None else list(args)
        found, rest = super().parse_known_args(words, namespace)
        # A path no longer shows that it was empty.
        empty = {flag for flag, value in itertools.pairwise(words) if not value.strip()}
        empty |= {word.removesuffix("=") for word in words if word.endswith("=")}
        for action in self._actions:
            flag, value = (
                next(iter(action.option_strings), action.dest),
                vars(found).get(action.dest),
            )
            values = value if isinstance(value, list) else [value]
            blank = flag in empty or any(isinstance(v, str) and not v.strip() for v in values)
            if blank and flag not in self.may_be_empty:
                raise ValueError(f"{flag} has an empty value: give one, or leave it out")
            for number in values:
                if isinstance(number, int | float) and not flag.endswith("seed"):
                    fine = number >= 0 and math.isfinite(number)
                    require(fine, action.dest, number, "must be at least 0")
        return found, rest


def command_parser(doc: str | None) -> CommandParser:
    """The parser of a command with its docstring."""
    return CommandParser(description=doc)


def make_parser(
    description: str,
    groups: Sequence[type] = CONFIG_GROUPS,
    defaults: Mapping[str, Any] | None = None,
) -> argparse.ArgumentParser:
    """A parser with one titled group of flags for each dataclass; abbreviations are refused.

    Args:
        defaults: of some fields, instead of the dataclasses' own.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    for config_class in groups:
        group = parser.add_argument_group(
            config_class.__name__.removesuffix("Config").lower(), inspect.getdoc(config_class)
        )
        hints = get_type_hints(config_class)
        for field in fields(config_class):
            default = (defaults or {}).get(field.name, field.default)
            _add_flag(
                group, field, hints[field.name], field_docs(config_class)[field.name], default
            )
    return parser


def parse_run_config(
    description: str, argv: Sequence[str] | None = None, **defaults: Any
) -> RunConfig:
    """The settings of a run from the command line; `defaults` as in `make_parser`.

    Raises:
        ValueError: for values that break a rule, and for flags of Megatron-DeepSpeed that are not here;
            argparse itself exits for flags it cannot read.
    """
    words = pretraining_words(
        sys.argv[1:] if argv is None else argv, is_bert=bool(defaults.get("num_token_types"))
    )
    return run_config_from(make_parser(description, defaults=defaults).parse_args(words))


def run_config_from(values: argparse.Namespace) -> RunConfig:
    """The settings of a run from parsed flags."""
    parts = {}
    for config_class in CONFIG_GROUPS:
        read = {field.name: getattr(values, field.name) for field in fields(config_class)}
        frozen = {
            n: tuple(value) if isinstance(value, list) else value for n, value in read.items()
        }
        parts[config_class.__name__.removesuffix("Config").lower()] = config_class(**frozen)
    return RunConfig(**parts)


def _add_flag(group: Any, field: Field[Any], hint: Any, doc: str, default: Any) -> None:
    required = default is MISSING
    if not required and default not in (None, ()):
        doc += f" Default: {default}."
    settings: dict[str, Any] = {"dest": field.name, "help": doc.replace("%", "%%")}
    settings |= {"required": True} if required else {"default": default}
    kind = _without_none(hint)
    if kind is bool:
        settings["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
    elif get_origin(kind) is tuple:
        settings["nargs"] = "+"
        [part, *_] = get_args(kind)
        is_choice = get_origin(part) is Literal
        settings |= {"choices": get_args(part)} if is_choice else {"metavar": "TEXT"}
    else:
        settings |= {
            "type": _whole_number if kind is int else kind,
            "metavar": {int: "N", float: "X", str: "TEXT"}[kind],
        }
    group.add_argument(flag_name(field.name), **settings)


def _without_none(hint: Any) -> Any:
    """The type besides None in an optional type."""
    if isinstance(hint, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _whole_number(text: str) -> int:
    """An int; 300_000 and 3e5 are understood."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(value)
