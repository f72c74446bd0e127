"""Copies of what lies on other storage, on this machine's disk: made once, then memory-mapped by every process."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from data_efficiency.files.lock import file_lock
from data_efficiency.files.reading import parse_json, reading
from data_efficiency.files.remote import Location, RemotePath
from data_efficiency.files.result_folder import MANIFEST_FILE, new_folder, sha256_of_file

CACHE_VARIABLE = "DATA_EFFICIENCY_CACHE"


def cache_folder() -> Path:
    """Where copies are kept: what `DATA_EFFICIENCY_CACHE` names, or else a folder of the user's cache."""
    named = os.environ.get(CACHE_VARIABLE)
    users = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(users) / "data-efficiency"


def local_result(folder: Location) -> Path:
    """A folder on this machine with the files of a result; a local folder itself.

    A copy belongs to its manifest: another result under the same URL gets another copy.

    Raises:
        FileNotFoundError: if there is no result.
        ValueError: if its manifest is damaged, or a file is not the one of the manifest.
    """
    if isinstance(folder, Path):
        return folder
    content = (folder / MANIFEST_FILE).read_bytes()
    with reading(folder / MANIFEST_FILE):
        entries = parse_json(content, folder / MANIFEST_FILE)["files"]
        wanted = {str(name): str(entry["sha256"]) for name, entry in entries.items()}
    target = _place(folder, hashlib.sha256(content).hexdigest())
    with file_lock(target.with_name(f".{target.name}.lock"), wait=True):
        if not target.exists():
            with new_folder(target) as copy:
                _fetch(folder, wanted, copy)
                (copy / MANIFEST_FILE).write_bytes(content)
    return target


def local_folder(folder: Location) -> Path:
    """A folder on this machine with the files of another, at any depth; a local folder itself.

    A copy belongs to the names, sizes and checksums that the storage says of the files.

    Raises:
        FileNotFoundError: if there is not one file.
    """
    if isinstance(folder, Path):
        return folder
    listing = folder.versions()
    if not listing:
        raise FileNotFoundError(f"{folder}: no such folder")
    target = _place(folder, hashlib.sha256(repr(sorted(listing.items())).encode()).hexdigest())
    with file_lock(target.with_name(f".{target.name}.lock"), wait=True):
        if not target.exists():
            with new_folder(target) as copy:
                for name in listing:
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).fetch(copy / name)
    return target


def _place(folder: RemotePath, key: str) -> Path:
    """The copy of a folder: under a key of its content, and named as it is, for messages."""
    return cache_folder().joinpath(key[:16], *folder.url.partition("://")[2].split("/"))


def _fetch(folder: RemotePath, wanted: Mapping[str, str], copy: Path) -> None:
    """Copy files whose SHA-256 are known."""
    for name, checksum in wanted.items():
        try:
            (folder / name).fetch(copy / name)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder / name} is missing; analyze the dataset again"
            ) from None
        if sha256_of_file(copy / name) != checksum:
            raise ValueError(
                f"{folder / name} is not the file of its manifest (other SHA-256): it was changed, or replaced "
                "while it was copied; try again, or analyze the dataset again"
            )
