"""Worker processes of a loader: they outlive signals meant for the run, and are named when they are lost."""

import atexit
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks whether a worker stands still."""
_LOOKS = 5
"""After so many in a row a worker that stands still is given up."""


ENDING_SECONDS = 5.0
"""How long a worker that broke a connection may take to end."""


def ignore_signals(_worker: int) -> None:
    """Leave it to the main process what a signal to all processes of a run means; it ends its workers."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):  # Windows has the first two.
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def batches_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader with workers.

    Raises:
        ChildProcessError: naming a worker that has ended or stands still.
        Exception: of a worker, as it was raised there.
    """
    others = set(multiprocessing.active_children())
    iterator: Any = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    is_over = threading.Event()
    threading.Thread(target=_end_stopped, args=(workers, is_over), daemon=True).start()
    atexit.register(_kill, workers)
    try:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                _refuse_lost(workers, error)
                raise _as_in_worker(error) from error
            yield batch
    finally:
        is_over.set()
        atexit.unregister(_kill)
        # An error's traceback may hold the iterator, which would end them when it is let go.
        iterator._shutdown_workers()
        for worker in workers:
            worker.kill()


def _kill(workers: Sequence[BaseProcess]) -> None:
    """End at the program's end what ignores being asked to, or Python waits for it."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


def _end_stopped(workers: Sequence[BaseProcess], is_over: threading.Event) -> None:
    """Kill a worker that stands still, for which the main process would wait for ever."""
    looks: Counter[int] = Counter()
    while not is_over.wait(LOOK_SECONDS):
        for pid in (worker.pid for worker in workers):
            assert pid is not None
            looks[pid] = looks[pid] + 1 if _is_stopped(pid) else 0
            if looks[pid] == _LOOKS:
                logger.warning("loader worker %d stands still: a signal has stopped it", pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process; False where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _refuse_lost(workers: Sequence[BaseProcess], error: Exception) -> None:
    """Raise ChildProcessError if a worker has ended."""
    # A process that is ending lets go of its connections a moment before it has ended.
    broken = isinstance(error, (EOFError, ConnectionError))
    deadline = time.monotonic() + (ENDING_SECONDS if broken else 0)
    while not (ended := [worker for worker in workers if worker.exitcode]):
        if time.monotonic() >= deadline:
            return
        time.sleep(0.01)
    code = ended[0].exitcode or 0
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise ChildProcessError(
        f"loader worker {ended[0].pid} was {how}; continue from the last checkpoint, with fewer "
        "num_workers if memory is short"
    ) from error


def _as_in_worker(error: Exception) -> Exception:
    """A worker's error with its own message alone; PyTorch puts the worker's traceback into it."""
    text, kind = str(error).strip(), type(error)
    _, found, own = text.rpartition(f"{kind.__qualname__}: ")
    return kind(own) if text.startswith("Caught ") and found else error
