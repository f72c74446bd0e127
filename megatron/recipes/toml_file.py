"""A TOML file: its content, its leading comment, and an error for every key nobody knows."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_efficiency import ConfigError


@dataclass(frozen=True)
class TomlFile:
    """What a file says to the machine, and above it to the reader."""

    path: Path
    content: Mapping[str, Any]
    comment: tuple[str, ...]
    """Lines of the leading comment without their marks."""

    def remark(self, name: str) -> str | None:
        """The comment's text after `name:`, with the indented lines below it; None if not there.

        Example:
            >>> file = TomlFile(Path("a"), {}, ("Title", "Source: one", "  and two", "Cost: 3"))
            >>> file.remark("Source"), file.remark("Result")
            ('one and two', None)
        """
        found: list[str] = []
        for line in self.comment:
            if found and line.startswith("  "):
                found.append(line.strip())
            elif found:
                break
            elif line.startswith(f"{name}:"):
                found.append(line.removeprefix(f"{name}:").strip())
        return " ".join(found) or None

    def check_keys(self, known: Iterable[str], table: str = "") -> None:
        """Raise ConfigError unless the table (all of the file by default) has known keys only."""
        content = self.content.get(table, {}) if table else self.content
        place = f"{self.path.name}: [{table}]" if table else self.path.name
        if not isinstance(content, Mapping):
            raise ConfigError(f"{place} is {content!r}: must be a table")
        check_known(content, known, place)


def check_known(names: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raise ConfigError, naming the first name that is not known and the known one nearest to it."""
    choices = sorted(known)
    for name in names:
        if name not in choices:
            near = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)
            hint = f"; the nearest known key is {near[0]!r}" if near else ""
            raise ConfigError(f"{place}: {name!r} is not a known key{hint}")


def read_toml(path: Path) -> TomlFile:
    """The file at `path`.

    Raises:
        ConfigError: if it is not valid TOML, with the line.
        FileNotFoundError: if there is none.
    """
    text = path.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return TomlFile(path, content, tuple(comment))
