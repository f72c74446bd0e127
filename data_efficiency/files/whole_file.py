"""Files that appear under their name complete and on disk, or not at all."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_efficiency.files.remote import Place, RemotePath, location


def sync_to_disk(path: Path) -> None:
    """Make a file's bytes, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Place, *, sync: bool = True) -> Iterator[Path]:
    """A temporary local path that becomes `path` if the block ends without error, or is copied there.

    Missing folders are made; an older file is replaced at once. The temporary name keeps the ending.
    Without `sync` a power cut may damage the file: for what is checked and made again.

    Raises:
        OSError: naming `path`, if it cannot be written.
    """
    target = location(path)
    if isinstance(target, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / target.name
            target.put(Path(folder) / target.name)
        return
    partial = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if sync:
            sync_to_disk(partial)
        partial.replace(target)
        if sync:
            sync_to_disk(target.parent)
    except OSError as error:
        raise OSError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_file(path: Place, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file, text in UTF-8, as `new_file` does.

    Raises:
        OSError: naming the file, if it cannot be written.
    """
    with new_file(path, sync=sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
