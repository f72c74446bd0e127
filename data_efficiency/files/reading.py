"""Reading files that may be damaged: one error, which names the file, for whatever is wrong."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within the block, whatever a damaged file leads to is a ValueError that names the file.

    Errors of the system and of missing packages stay what they are, and ValueErrors that name it.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and os.fspath(path) in str(error):
            raise
        raise ValueError(
            f"{os.fspath(path)} is damaged or of another form ({type(error).__name__}: {error})"
        ) from error


def parse_json(text: str | bytes, where: object) -> Any:
    """The content of a JSON text; a ValueError names `where` it stands."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys: ValueError for one that comes twice, of which only the last would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return found


def read_json_file(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is no JSON.
    """
    return parse_json(Path(path).read_bytes(), os.fspath(path))


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: if it holds something else.
    """
    content = read_json_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)} must hold a JSON object, not {type(content).__name__}")
    return content
