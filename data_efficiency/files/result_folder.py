"""Result folders: a handful of files and a manifest that appear together or not at all.

`manifest.json` names the kind of result, its version, size and SHA-256 of every other file, and its own
SHA-256 over the rest of it.
"""

import ctypes
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.files.reading import read_json_object, reading
from data_efficiency.files.remote import Location, Place, RemotePath, location
from data_efficiency.files.whole_file import sync_to_disk

MANIFEST_FILE = "manifest.json"
_READ_BYTES = 8 * 1024 * 1024


class OtherVersionError(ValueError):
    """A sound result that another version of this program wrote."""


def sha256_of_file(path: Location) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        if isinstance(path, Path):
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        digest = hashlib.sha256()
        while block := file.read(_READ_BYTES):
            digest.update(block)
        return digest.hexdigest()


@contextmanager
def new_folder(path: Place, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary local folder that becomes `path`, synced to disk, if the block ends without error.

    `overwrite` replaces an older folder that holds a manifest; readers that have mapped the old
    files keep them. On other storage, which cannot rename, the manifest is put there last, and that of an older
    folder is removed first: a kill finds the old result, the new one or none, never a mixture.

    Raises:
        FileExistsError: if `path` is taken and may not be replaced.
    """
    target = location(path)
    if isinstance(target, RemotePath):
        if is_result(target) and not overwrite:
            raise FileExistsError(f"{target} already exists; remove it or pass overwrite=True")
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
            _publish(Path(made), target)
        return
    taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if taken and not overwrite:
        raise FileExistsError(f"{target} already exists; remove it or pass overwrite=True")
    if taken and not (target / MANIFEST_FILE).is_file():
        raise FileExistsError(f"{target} is not a finished result and will not be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = numbered(target, secrets.randbits(32))
    suffix = f"{number_of(temporary):08x}"
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync_to_disk(file)
        sync_to_disk(temporary)
        if taken and _exchange(temporary, target):
            pass  # What was there is removed below.
        elif taken:
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


def _publish(made: Path, target: RemotePath) -> None:
    """Put the files of a finished folder on other storage, the manifest last.

    Raises:
        FileExistsError: if there are files that are no part of the result.
    """
    names = sorted(file.name for file in made.iterdir())
    foreign = sorted(set(target.names()) - {*names, MANIFEST_FILE})
    if foreign:
        raise FileExistsError(
            f"{target} is not a finished result and will not be overwritten: it holds {foreign[0]}"
        )
    (target / MANIFEST_FILE).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (name == MANIFEST_FILE, name)):
        (target / name).put(made / name)


def is_result(folder: Location) -> bool:
    """Whether something is there that nobody may replace unasked.

    On other storage that is a manifest alone: what else is there was left by a writer that was killed.
    """
    return (folder / MANIFEST_FILE if isinstance(folder, RemotePath) else folder).exists()


def numbered(target: Path, number: int) -> Path:
    """The temporary folder of a number that becomes `target`: how other processes of a writer find it."""
    return target.with_name(f".{target.name}.{number:08x}.partial")


def number_of(temporary: Path) -> int:
    """The number of a temporary folder, 0 <= number < 2^32."""
    return int(temporary.name.split(".")[-2], 16)


def _exchange(first: Path, second: Path) -> bool:
    """Whether the system could swap two names at once, so that a kill finds one or the other there.

    Where it cannot, as on many network file systems, there is a moment between two renames.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(first), os.fsencode(second)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, names[0], here, names[1], exchange) == 0


def file_entry(path: Path) -> dict[str, Any]:
    """Manifest entry of a file: size in bytes and SHA-256."""
    return {"num_bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Manifest entry of an array just saved as `.npy`: its dtype too."""
    np.save(path, array, allow_pickle=False)
    return {"dtype": array.dtype.name, **file_entry(path)}


def read_manifest(
    folder: Path,
    format_name: str,
    version: int,
    *,
    older: Collection[int] = (),
    remedy: str = "analyze the dataset again",
) -> dict[str, Any]:
    """The manifest of a folder, after checking its kind, version and the sizes of its files.

    Args:
        format_name: value its field `format` must have, words for the error messages as well.
        older: versions that are read as well.
        remedy: what to do about a folder that cannot be read, last words of the error messages.

    Raises:
        FileNotFoundError: if the folder, its manifest or one of its files is missing.
        OtherVersionError: if it is of another version.
        ValueError: if it is something else, or a file has another size.
    """
    file = folder / MANIFEST_FILE
    try:
        manifest = read_json_object(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} is not a {format_name}: {MANIFEST_FILE} is missing; {remedy}"
        ) from error
    found = manifest.get("format")
    if found != format_name:
        raise ValueError(f"{folder} is not a {format_name}: its manifest says format {found!r}")
    # Manifests of before have no checksum of their own.
    if manifest.pop("sha256", None) not in (None, _checksum(manifest)):
        raise ValueError(f"{file} was changed after it was written: other SHA-256; {remedy}")
    written = manifest.get("version")
    if written != version and written not in older:
        is_newer = isinstance(written, int) and written > version
        raise OtherVersionError(
            f"{folder} is a {format_name} of version {written}, this program reads version "
            f"{version}: {'update it, or ' if is_newer else ''}{remedy}"
        )
    with reading(file):
        _check_sizes(folder, manifest["files"], remedy)
    return manifest


def _check_sizes(folder: Path, entries: Mapping[str, Mapping[str, Any]], remedy: str) -> None:
    for name, entry in entries.items():
        file, wanted = folder / name, entry["num_bytes"]
        if not isinstance(entry["sha256"], str):
            raise TypeError(f"{name} has no checksum")
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; {remedy}")
        if file.stat().st_size != wanted:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes instead of {wanted}: "
                f"truncated or changed; {remedy}"
            )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`, with a checksum of its own, into a folder."""
    content = json.loads(json.dumps(manifest))
    text = json.dumps({**content, "sha256": _checksum(content)}, indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


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


def remove_leftovers(target: Location) -> None:
    """Remove the temporary folders and files that killed writers of `target` left beside it.

    Call it only while nobody writes there and `target` is finished. Its name may hold a `*`. On other storage
    nothing temporary has a name.
    """
    if isinstance(target, RemotePath):
        return
    for pattern in ("partial", "replaced"):
        for left in target.parent.glob(f".{target.name}.*.{pattern}"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
