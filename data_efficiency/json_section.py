"""One JSON object under inspection: typed access by key, and an error for every key nobody asked for."""

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=str)
_MISSING = object()


class ConfigError(ValueError):
    """A configuration that cannot be meant; the message names the key, its value and the rule."""


class Section:
    """A JSON object with its dotted path; `close` complains about keys that were never taken."""

    def __init__(self, content: object, path: str) -> None:
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path or 'the file'} must be a JSON object, not {content!r}")
        self.path = path
        self._content = dict(content)
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def take(self, key: str, default: Any = _MISSING) -> Any:
        """The value under `key`; a missing key without default is an error."""
        self._known.add(key)
        if key in self._content:
            return self._content[key]
        if default is _MISSING:
            hint = self._nearest_unknown(key)
            raise ConfigError(f"{self._at(key)} is missing{hint}")
        return default

    def section(self, key: str) -> "Section":
        """The object under `key`, an empty one if it is absent."""
        content = self.take(key, None)
        return Section({} if content is None else content, self._at(key))

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be true or false")
        return value

    def integer(self, key: str, default: Any = _MISSING, *, at_least: int | None = None) -> int:
        """A whole number; floats that are whole numbers (1e3) are accepted."""
        value = self.take(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be a whole number")
        if at_least is not None and value < at_least:
            raise ConfigError(f"{self._at(key)} is {value}: must be at least {at_least}")
        return value

    def optional_int(self, key: str) -> int | None:
        """A positive whole number, or None where it is absent or "auto"."""
        if self.take(key, "auto") == "auto":
            return None
        return self.integer(key, at_least=1)

    def number(self, key: str, default: float, *, at_least: float) -> float:
        """A number; "auto" is the default."""
        value = self.take(key, default)
        if value == "auto":
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < at_least:
            raise ConfigError(f"{self._at(key)} is {value!r}: must be a number >= {at_least}")
        return float(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self.take(key)
        if not isinstance(value, list) or any(
            isinstance(item, bool) or not isinstance(item, int) for item in value
        ):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be a list of whole numbers")
        return tuple(value)

    def optional_string(self, key: str) -> str | None:
        """A text, or None where it is absent or null."""
        value = self.take(key, None)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be a text or null")
        return value or None

    def choice(self, key: str, choices: tuple[T, ...]) -> T:
        """One of the listed words."""
        value = self.take(key)
        for allowed in choices:
            if value == allowed:
                return allowed
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{self._at(key)} is {value!r}: must be one of {', '.join(choices)}{hint}"
        )

    def optional_choice(self, key: str, choices: tuple[T, ...]) -> T | None:
        """One of the listed words, or None where it is absent or null."""
        return None if self.take(key, None) is None else self.choice(key, choices)

    def warn(self, *texts: str) -> None:
        """Log what is done otherwise than it is written here."""
        for text in texts:
            logger.warning("%s: %s", self.path, text)

    def close(self, also_known: Iterable[str] = ()) -> None:
        """Raise ConfigError, naming the first key that nobody asked for and the known one nearest to it."""
        known = self._known | set(also_known)
        for key in self._content:
            if key not in known:
                near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)
                hint = f"; the nearest known key is {near[0]!r}" if near else ""
                raise ConfigError(f"{self._at(key)} is not a known key{hint}")

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _nearest_unknown(self, key: str) -> str:
        unknown = [name for name in self._content if name not in self._known]
        near = difflib.get_close_matches(key, unknown, n=1, cutoff=0.6)
        return f"; did you mean it by {near[0]!r}?" if near else ""
