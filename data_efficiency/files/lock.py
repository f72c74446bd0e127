"""A lock file against two processes that would write the same files at once."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def file_lock(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file` within the block, and remove it afterwards.

    The operating system lets go of the lock when its process dies, however it dies, so a file left
    behind by a dead process does not count.

    Args:
        file: name of the lock; missing folders are made.

    Raises:
        BlockingIOError: if another process holds it and `wait` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, blocking=wait)
    try:
        lock.acquire()
    except Timeout:
        holder = file.read_text().strip() if file.exists() else ""
        raise BlockingIOError(
            f"{holder or 'another process'} is at work on {file.parent} ({file.name}); "
            "wait for it or stop it"
        ) from None
    try:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        # Removed while it is held: whoever waits for the removed file notices, and takes the new one.
        file.unlink(missing_ok=True)
        lock.release()


def refuse_other_locks(folder: Path, allowed: str) -> None:
    """Raise BlockingIOError if a process holds a lock in a folder whose name `allowed` does not match."""
    for file in folder.glob(".*.lock"):
        if not file.match(allowed):
            with file_lock(file):
                pass
