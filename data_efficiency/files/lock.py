"""A lock file against two runs that would write the same files at once."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def folder_lock(file: Path) -> Iterator[None]:
    """Holds the lock `file` within the block, and removes it afterwards.

    The operating system lets go of the lock when its process dies, however it dies, so a file left
    behind by a dead process does not count.

    Raises:
        BlockingIOError: if another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(file)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
        file.unlink(missing_ok=True)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def refuse_other_locks(folder: Path, allowed: str) -> None:
    """Nothing, if no other process holds a lock in a folder but those whose name `allowed` matches.

    Raises:
        BlockingIOError: if one does.
    """
    for file in folder.glob(".*.lock"):
        if file.match(allowed):
            continue
        with suppress(FileNotFoundError), open(file, "r+b") as opened:
            _lock(opened.fileno(), file)


def _lock(descriptor: int, file: Path) -> None:
    """Nothing; locks an open file.

    Raises:
        BlockingIOError: if another process holds the lock.
    """
    try:
        # Unlike flock, this lock is not inherited by worker processes that outlive a killed run.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 200).decode().strip() or "another process"
        raise BlockingIOError(
            f"{holder} is at work on {file.parent} ({file.name}); wait for it or stop it"
        ) from error


def _acquire(file: Path) -> int:
    """An open descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, file)
        except BlockingIOError:
            os.close(descriptor)
            raise
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor
        except FileNotFoundError:
            pass
        # The holder removed the file between our opening and locking it: lock the new one.
        os.close(descriptor)
