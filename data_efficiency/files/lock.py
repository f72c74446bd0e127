"""A lock file against two processes that would write the same files at once."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from data_efficiency.files.remote import Location, RemotePath

_SECONDS_TO_SIGN = 1.0


@contextmanager
def file_lock(file: Location, *, wait: bool = False) -> Iterator[Callable[[], None]]:
    """Hold the lock `file` within the block, and remove it afterwards.

    The operating system lets go of the lock when its process dies, however it dies, so a file left
    behind by a dead process does not count. Within the block, the function given back raises
    BlockingIOError if another process has taken the lock all the same: some network file systems keep
    locks on each machine alone. Other storage (`RemotePath`) has no locks: nothing is held there, and
    whoever writes there must do no harm to others who write the same.

    Args:
        file: name of the lock; missing folders are made.

    Raises:
        BlockingIOError: if another process holds it and `wait` is False.
    """
    if isinstance(file, RemotePath):
        yield lambda: None
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, blocking=wait)
    try:
        lock.acquire()
    except Timeout:
        file.touch()  # Where no file can be made, nobody holds one: the system's own error says so.
        raise _taken(file) from None
    signed = _sign(file, lock)

    def check() -> None:
        if signed and _holder(file) != signed:
            raise _taken(file)

    try:
        yield check
    finally:
        # Removed while it is held: whoever waits for the removed file notices, and takes the new one.
        if not signed or _holder(file) in (signed, ""):
            with suppress(OSError):
                file.unlink()
        lock.release()


def _sign(file: Path, lock: FileLock) -> str:
    """What was written into a lock file, for whoever comes next; "" where nothing was."""
    text = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}"
    # Where the system has no locks, the file itself is one, and filelock has signed it.
    with suppress(AttributeError):
        _ = lock.pid
        return ""
    # On a full disk the lock is held all the same.
    with suppress(OSError):
        file.write_text(text + "\n")
        return text
    return ""


def _holder(file: Path) -> str:
    """Who has signed a lock file; "" where nobody has."""
    try:
        first, *others = file.read_text(errors="replace").splitlines() or [""]
    except OSError:
        return ""
    return f"process {first} on {others[0]}" if first.isdigit() and others else first


def _taken(file: Path) -> BlockingIOError:
    """The error that names who holds a lock; whoever has just taken it is given time to sign."""
    deadline = time.monotonic() + _SECONDS_TO_SIGN
    while not (holder := _holder(file)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return BlockingIOError(
        f"{holder or 'another process'} is at work on {file.parent} ({file.name}); "
        "wait for it or stop it"
    )


def refuse_other_locks(folder: Location, allowed: str) -> None:
    """Raise BlockingIOError if a process holds a lock in a folder whose name `allowed` does not match."""
    for file in () if isinstance(folder, RemotePath) else folder.glob(".*.lock"):
        if not file.match(allowed):
            with file_lock(file):
                pass
