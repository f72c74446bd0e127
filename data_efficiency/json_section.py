"""One JSON object under inspection: typed access by key, and an error for every key nobody asked for.

The keys of an object are the fields of a dataclass: name, type, default, and a docstring below each
that says what the key means. `Section.read` fills them; `docs/config.md` is made of them.
"""

import difflib
import logging
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=str)
Keys = TypeVar("Keys")


@dataclass(frozen=True)
class AtLeast:
    """The smallest number that a key may have."""

    number: int


@dataclass(frozen=True)
class Written:
    """How the JSON file writes a key that the field has another name for."""

    key: str


AUTO = "auto"
"""What a key says whose value follows from something else."""
GIVEN = object()
FOUND = object()
"""Marks a key that may be left out, or "auto": something else than the file says it."""
V = TypeVar("V")
Given = Annotated[V, GIVEN]
"""A field that is no key: whoever reads the object has its value."""
Positive = Annotated[int, AtLeast(1)]
NotNegative = Annotated[int, AtLeast(0)]


def written_key(name: str, hint: Any) -> str:
    """How the JSON file writes the key of a field."""
    rules = getattr(hint, "__metadata__", ())
    return next((rule.key for rule in rules if isinstance(rule, Written)), name)


def own_copy(content: Any) -> Any:
    """JSON data whose objects and lists nobody else holds.

    Example:
        >>> inner = [1]
        >>> own_copy({"a": inner})["a"] is inner
        False
    """
    if isinstance(content, Mapping):
        return {key: own_copy(value) for key, value in content.items()}
    return [own_copy(value) for value in content] if isinstance(content, list) else content


class ConfigError(ValueError):
    """A configuration that cannot be meant; the message names the keys, their values and the rules.

    Attributes:
        missing: path of each key that is needed and not there -> what to say where it is the only one.
        others: one sentence for each other fault.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        missing: Mapping[str, str] | None = None,
        others: Sequence[str] = (),
    ) -> None:
        self.missing = dict(missing or {})
        self.others = (*others, *([] if message is None else [message]))
        told = list(self.missing.values())
        if len(told) > 1:
            told = [f"{', '.join(self.missing)} are missing"]
        super().__init__("; ".join([*told, *self.others]))


class Faults:
    """All that is wrong in several places, told in one error."""

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}
        self._others: dict[str, None] = {}

    def ask(self, read: Callable[[], V]) -> V | None:
        """What `read` gives; None where it raises a ConfigError, which is kept."""
        try:
            return read()
        except ConfigError as error:
            self._missing |= error.missing
            self._others |= dict.fromkeys(error.others)
            return None

    def refuse(self) -> None:
        """Raise ConfigError with all that was kept, if anything was."""
        if self._missing or self._others:
            raise ConfigError(missing=self._missing, others=list(self._others))


def refuse_unknown(key: str, known: Iterable[str], place: str) -> None:
    """Raise ConfigError unless a key is known, with the known one nearest to it, or all if none is near."""
    choices = sorted(known)
    if key in choices:
        return
    near = difflib.get_close_matches(key, choices, n=1, cutoff=0.6)
    hint = (
        f"the nearest known key is {near[0]!r}" if near else f"known keys are {', '.join(choices)}"
    )
    raise ConfigError(f"{place}{'.' if place else ''}{key} is not a known key; {hint}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _shown(value: object) -> str:
    """A value in an error message; Python refuses to write out numbers of thousands of digits."""
    text = "a number beyond all bounds" if _is_huge(value) else repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) >= 2**1024


class Section:
    """A JSON object with its dotted path; `close` complains about keys that were never taken.

    Args:
        names: key that is asked for -> how the object writes it, where these differ.
        is_quiet: nothing is logged.
    """

    def __init__(
        self,
        content: object,
        path: str,
        names: Mapping[str, str] | None = None,
        *,
        is_quiet: bool = False,
    ) -> None:
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path or 'the file'} must be a JSON object, not {content!r}")
        self.path, self.is_quiet = path, is_quiet
        self._names = names or {}
        self._content = dict(content)
        self._known: set[str] = set()

    @property
    def content(self) -> Mapping[str, Any]:
        """The object as it is."""
        return self._content

    def __contains__(self, key: str) -> bool:
        return self._written(key) in self._content

    def read(self, keys: type[Keys], /, *, needed: Container[str] = (), **given: Any) -> Keys:
        """A dataclass whose fields are keys of this object, but for those that are given.

        Args:
            needed: fields that have a default and must be there all the same.

        Raises:
            ConfigError: with every field that is missing, or has a value of another type.
        """
        hints = get_type_hints(keys, include_extras=True)
        faults = Faults()
        values = {}
        for field in fields(keys):  # type: ignore[arg-type]
            name, default = field.name, MISSING if field.name in needed else field.default
            values[name] = given.get(name)
            if name not in given:
                values[name] = faults.ask(partial(self._value, name, hints[name], default))
        faults.refuse()
        return keys(**values)

    def take(self, key: str, default: Any = MISSING) -> Any:
        """The value under `key`; a missing key without default is an error."""
        key = self._written(key)
        self._known.add(key)
        if key in self._content:
            return self._content[key]
        if default is MISSING:
            hint = self._nearest_unknown(key)
            path = self._at(key)
            raise ConfigError(missing={path: f"{path} is missing{hint}"})
        return default

    def section(self, key: str, names: Mapping[str, str] | None = None) -> "Section":
        """The object under `key`, an empty one if it is absent.

        Args:
            names: key that will be asked for -> how the object writes it, where these differ.
        """
        content = self.take(key, None)
        inner = {} if content is None else content
        return Section(inner, self._at(key), names, is_quiet=self.is_quiet)

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be true or false")
        return value

    def integer(self, key: str, default: Any = MISSING, *, at_least: int | None = None) -> int:
        """A whole number; floats that are whole numbers (1e3) are accepted."""
        value = self.take(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not _is_integer(value):
            raise ConfigError(
                f"{self._at(key)} is {_shown(value)}: must be a whole number below 2^63"
            )
        if at_least is not None and value < at_least:
            raise ConfigError(f"{self._at(key)} is {value}: must be at least {at_least}")
        return value

    def optional_int(self, key: str) -> int | None:
        """A positive whole number, or None where it is absent or "auto"."""
        if self.take(key, "auto") == "auto":
            return None
        return self.integer(key, at_least=1)

    def number(self, key: str, default: Any = MISSING, *, at_least: float) -> float:
        """A number; "auto" is the default, where there is one."""
        value = self.take(key, default)
        if value == "auto" and default is not MISSING:
            return default
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not at_least <= value <= sys.float_info.max:
            raise ConfigError(
                f"{self._at(key)} is {_shown(value)}: must be a finite number >= {at_least}"
            )
        return float(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self.take(key)
        if not isinstance(value, list) or not all(map(_is_integer, value)):
            raise ConfigError(
                f"{self._at(key)} is {_shown(value)}: must be a list of whole numbers below 2^63"
            )
        return tuple(value)

    def string(self, key: str) -> str:
        """A text."""
        value = self.take(key)
        if not isinstance(value, str):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be a text")
        return value

    def optional_string(self, key: str) -> str | None:
        """A text, or None where it is absent or null."""
        value = self.take(key, None)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{self._at(key)} is {value!r}: must be a text or null")
        return value or None

    def choice(self, key: str, choices: tuple[T, ...], default: Any = MISSING) -> T:
        """One of the listed words; null is the default, where there is one."""
        value = self.take(key, default)
        if default is not MISSING and value in (None, default):
            return default
        for allowed in choices:
            if value == allowed:
                return allowed
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{self._at(key)} is {value!r}: must be one of {', '.join(choices)}{hint}"
        )

    def warn(self, *texts: str) -> None:
        """Log what is done otherwise than it is written here."""
        for text in () if self.is_quiet else texts:
            logger.warning("%s: %s", self.path, text)

    def close(self, also_known: Iterable[str] = ()) -> None:
        """Raise ConfigError, naming all keys that nobody asked for, each with the known one nearest to it."""
        known, faults = self._known | set(also_known), Faults()
        for key in self._content:
            faults.ask(partial(refuse_unknown, key, known, self.path))
        faults.refuse()

    def _value(self, name: str, hint: Any, default: Any) -> Any:
        """The value of a field."""
        rules = getattr(hint, "__metadata__", ())
        kind = get_args(hint)[0] if rules else hint
        key = written_key(name, hint)
        least = next((rule.number for rule in rules if isinstance(rule, AtLeast)), None)
        readers: dict[Any, Callable[[], Any]] = {
            Section: lambda: self.section(key),
            bool: lambda: self.boolean(key, default),
            int: lambda: self.integer(key, default, at_least=least),
            float: lambda: self.number(key, default, at_least=least or 0),
            str: lambda: self.string(key),
            int | None: lambda: self.optional_int(key),
            str | None: lambda: self.optional_string(key),
            Any: lambda: self.take(key, default),
        }
        if kind in readers:
            return readers[kind]()
        if get_origin(kind) is tuple:
            return self.integers(key) if default is MISSING or key in self else default
        if get_origin(kind) is not Literal:
            kind, default = get_args(kind)[0], None
        return self.choice(key, get_args(kind), default)

    def _written(self, key: str) -> str:
        return self._names.get(key, key)

    def _at(self, key: str) -> str:
        return f"{self.path}.{self._written(key)}" if self.path else self._written(key)

    def _nearest_unknown(self, key: str) -> str:
        unknown = [name for name in self._content if name not in self._known]
        near = difflib.get_close_matches(key, unknown, n=1, cutoff=0.6)
        return f"; did you mean it by {near[0]!r}?" if near else ""
