"""Result folders: a handful of files and a manifest that appear together or not at all.

`manifest.json` names the kind of result, its version, and size and SHA-256 of every other file.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.files.whole_file import sync_to_disk

MANIFEST_FILE = "manifest.json"


class OtherVersionError(ValueError):
    """A sound result that another version of this program wrote."""


def sha256_of_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path`, synced to disk, if the block ends without error.

    `overwrite` replaces an older folder that holds a manifest; readers that have mapped the old
    files keep them.

    Raises:
        FileExistsError: if `path` is taken and may not be replaced.
    """
    target = Path(path)
    taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if taken and not overwrite:
        raise FileExistsError(f"{target} already exists; remove it or pass overwrite=True")
    if taken and not (target / MANIFEST_FILE).is_file():
        raise FileExistsError(f"{target} is not a finished result and will not be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{suffix}.partial")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync_to_disk(file)
        sync_to_disk(temporary)
        if taken:
            replaced = target.with_name(f".{target.name}.{suffix}.replaced")
            target.rename(replaced)
            try:
                temporary.rename(target)
            except OSError:
                replaced.rename(target)
                raise
            shutil.rmtree(replaced)
        else:
            temporary.rename(target)
        sync_to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_entry(path: Path) -> dict[str, Any]:
    """Manifest entry of a file: size in bytes and SHA-256."""
    return {"num_bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Manifest entry of an array just saved as `.npy`: its dtype too."""
    np.save(path, array, allow_pickle=False)
    return {"dtype": array.dtype.name, **file_entry(path)}


def read_manifest(
    folder: Path, format_name: str, version: int, *, remedy: str = "analyze the dataset again"
) -> dict[str, Any]:
    """The manifest of a folder, after checking its kind, version and the sizes of its files.

    Args:
        format_name: value its field `format` must have, words for the error messages as well.
        remedy: what to do about a folder that cannot be read, last words of the error messages.

    Raises:
        FileNotFoundError: if the folder, its manifest or one of its files is missing.
        OtherVersionError: if it is of another version.
        ValueError: if it is something else, or a file has another size.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} is not a {format_name}: {MANIFEST_FILE} is missing; {remedy}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{folder / MANIFEST_FILE} is not valid JSON ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != format_name:
        raise ValueError(f"{folder} is not a {format_name}: its manifest says format {found!r}")
    written = manifest.get("version")
    if written != version:
        is_newer = isinstance(written, int) and written > version
        raise OtherVersionError(
            f"{folder} is a {format_name} of version {written}, this program reads version "
            f"{version}: {'update it, or ' if is_newer else ''}{remedy}"
        )
    if not isinstance(manifest.get("files"), dict):
        raise ValueError(f"{folder / MANIFEST_FILE} names no files: it is damaged; {remedy}")
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; {remedy}")
        if file.stat().st_size != entry["num_bytes"]:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes instead of {entry['num_bytes']}: "
                f"truncated or changed; {remedy}"
            )
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` into a folder."""
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def verify_checksums(
    folder: Path, manifest: Mapping[str, Any], *, remedy: str = "analyze the dataset again"
) -> None:
    """Raise ValueError, naming the first file whose checksum is not the one of its manifest.

    At 1e8 samples the two arrays of an index, 4 bytes a number, take 0.4 s of CPU time, on two cores at once.
    """
    names = list(manifest["files"])
    with ThreadPoolExecutor() as threads:
        checksums = list(threads.map(lambda name: sha256_of_file(folder / name), names))
    for name, checksum in zip(names, checksums, strict=True):
        if checksum != manifest["files"][name]["sha256"]:
            raise ValueError(
                f"{folder / name} was changed after it was written: other SHA-256; {remedy}"
            )


def remove_folder(target: Path) -> None:
    """Remove a finished result at once: a kill leaves no half of it behind."""
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}.replaced")
    target.rename(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(target: Path) -> None:
    """Remove the temporary folders and files that killed writers of `target` left beside it.

    Call it only while nobody writes there and `target` is finished. Its name may hold a `*`.
    """
    for pattern in ("partial", "replaced"):
        for left in target.parent.glob(f".{target.name}.*.{pattern}"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
