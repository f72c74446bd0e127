"""The parser of a command line: what argparse takes and no command means is refused here, for all of them."""

import argparse
import itertools
import math
import sys
from typing import Any

from data_efficiency.command_end import TRACEBACK_HELP

AT_LEAST_ONE = ("--limit", "--parallel", "--workers")
"""Flags of which 0 is nothing to do, beside sizes, lengths and numbers of processes."""


class CommandParser(argparse.ArgumentParser):
    """A parser without abbreviations that takes no empty text, no negative number but a seed, and no NaN.

    `--help` begins with the description as it stands.
    """

    may_be_empty: tuple[str, ...] = ()
    """Flags whose empty text means something."""
    may_be_negative: tuple[str, ...] = ()
    """Flags of numbers below zero, beside seeds."""

    def __init__(self, **settings: Any) -> None:
        shape: dict[str, Any] = {
            "allow_abbrev": False,
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "epilog": TRACEBACK_HELP,
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
            if flag == "--device" and value is not None:
                _refuse_no_device(value)
            for number in values:
                if isinstance(number, bool) or not isinstance(number, int | float):
                    continue
                _refuse_outside(flag, number, may_be_negative=flag in self.may_be_negative)
        return found, rest


def _refuse_outside(flag: str, number: float, *, may_be_negative: bool) -> None:
    """Raise ValueError unless a flag may have a number."""
    if flag.endswith(("seed", "seeds")):
        fine, rule = -(2**63) <= number < 2**63, "must be from -2^63 to 2^63 - 1"
    elif may_be_negative:
        fine, rule = math.isfinite(number), "must be a finite number"
    else:
        least = int(flag in AT_LEAST_ONE or flag.endswith(("-size", "-length", "-processes")))
        fine, rule = number >= least and math.isfinite(number), f"must be at least {least}"
    if not fine:
        raise ValueError(f"{flag} is {number!r}: {rule}")


def _refuse_no_device(name: str) -> None:
    """Raise ValueError unless this machine has a device of the name."""
    import torch  # noqa: PLC0415  heavy, for the commands that have the flag

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(
            f"--device is {name}: this machine has none: cpu, cuda, cuda:1, ..."
        ) from None


def command_parser(doc: str | None) -> CommandParser:
    """The parser of a command with its docstring."""
    return CommandParser(description=doc)
