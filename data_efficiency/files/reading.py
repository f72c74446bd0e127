"""Reading files that may be damaged: one error, which names the file, for whatever is wrong."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from data_efficiency.files.remote import Place, location


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """Within the block, whatever a damaged file leads to is a ValueError that names the file.

    Errors of the system and of missing packages stay what they are, and ValueErrors that name it.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(
            f"{path!s} is damaged or of another form ({type(error).__name__}: {error})"
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


def refuse_other_tensors(
    folder: str | os.PathLike[str], missing: Iterable[str], left: Iterable[str]
) -> None:
    """Raise ValueError for tensors that a model wants and its folder lacks, or that it has no place for."""
    for names, fault in (
        (sorted(missing), "lacks"),
        (sorted(left), "has no place in its model for"),
    ):
        if names:
            raise ValueError(
                f"{os.fspath(folder)} {fault} {len(names)} tensors, such as {names[0]}: its config.json is of "
                "another model, or files of weights are missing"
            )


def read_json_file(path: Place) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is no JSON.
    """
    return parse_json(location(path).read_bytes(), str(path))


def read_json_object(path: Place) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: if it holds something else.
    """
    content = read_json_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path!s} must hold a JSON object, not {type(content).__name__}")
    return content
