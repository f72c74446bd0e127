"""Ways to run a task for many items. They know nothing of what the task does.

A task is a generator function of one item that yields counts of its progress (tuples of integers)
and keeps its result itself, in a file. Executors yield these counts as they come.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from data_efficiency.files.remote import Location, RemotePath

Counts = tuple[int, ...]
Task = Callable[[int], Iterator[Counts]]

SECONDS_BETWEEN_REPORTS = 0.2


class TaskError(RuntimeError):
    """A task failed for one item; the items that were finished stay finished."""

    def __init__(self, item: int, cause: str, trace: str | None = None) -> None:
        super().__init__(f"item {item}: {cause}")
        self.item = item
        self.cause = cause
        if trace is not None:
            self.add_note(f"In the worker process:\n{trace}")


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within the block, SIGTERM raises KeyboardInterrupt just as Ctrl-C does.

    Outside the main thread Python cannot set signal handlers, and nothing changes.
    """
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class InProcessExecutor:
    """One item after the other, in this process."""

    def run(self, task: Task, items: Sequence[int]) -> Iterator[Counts]:
        """The counts that the task yields; a TaskError for the first item that fails."""
        for item in items:
            try:
                yield from task(item)
            except TaskError:
                raise
            except Exception as error:
                raise TaskError(item, f"{type(error).__name__}: {error}") from error


class LocalProcessExecutor:
    """Several processes on this machine, each taking the next item when it is free.

    After a failure no further item is started; the running ones are finished first.

    Args:
        num_processes: at most so many processes.
        start_method: of `multiprocessing`. Not given: "fork" on Linux, where datasets and
            functions need not be picklable then, "spawn" elsewhere.
    """

    def __init__(self, num_processes: int, start_method: str | None = None) -> None:
        if num_processes < 1:
            raise ValueError(f"number of processes is {num_processes}: at least 1 is needed")
        self.num_processes = num_processes
        default = "fork" if sys.platform == "linux" else "spawn"
        self.context: Any = multiprocessing.get_context(start_method or default)

    def run(self, task: Task, items: Sequence[int]) -> Iterator[Counts]:
        """The counts that the task yields; a TaskError for the first item that failed.

        A worker process that dies is a failure of its item.
        """
        waiting = list(reversed(items))
        workers = [self._start_worker(task) for _ in range(min(self.num_processes, len(items)))]
        failures: list[TaskError] = []
        try:
            for worker in workers:
                worker.give(waiting.pop())
            while busy := [worker for worker in workers if worker.is_busy]:
                ready = wait([worker.connection for worker in busy])
                for worker in busy:
                    if worker.connection not in ready:
                        continue
                    kind, content = worker.receive()
                    if kind == "counts":
                        yield content
                        continue
                    if kind == "failed":
                        failures.append(TaskError(worker.item, *content))
                    worker.is_busy = False
                    if waiting and not failures:
                        worker.give(waiting.pop())
        finally:
            for worker in workers:
                worker.stop()
        if failures:
            raise failures[0]

    def _start_worker(self, task: Task) -> "_Worker":
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_work, args=(task, theirs, os.getpid()), daemon=True)
        with warnings.catch_warnings():
            # Python warns of any fork while other threads run. The workers use numpy and
            # single-threaded PyTorch only, as the workers of PyTorch's own DataLoader do.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, ours)


class Executor(Protocol):
    """What runs a task for items."""

    def run(self, task: Task, items: Sequence[int]) -> Iterator[Counts]:
        """The counts that the task yields, or sums of them; a TaskError for the first item that fails."""


def refuse_unseen_work(executor: Executor, place: Location, num_workers: int = 1) -> None:
    """Raise ValueError if what the processes of an executor, or other workers, write in a place is seen by them alone."""
    if not isinstance(place, RemotePath) or not place.is_of_one_process:
        return
    if num_workers > 1 or not isinstance(executor, InProcessExecutor):
        raise ValueError(
            f"{place} is seen by one process alone: work with one (--num-processes 1), or save elsewhere"
        )


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.item = -1
        self.is_busy = False

    def give(self, item: int) -> None:
        """Lets the worker start with an item."""
        self.item, self.is_busy = item, True
        # A worker that has just died is noticed when its answer is received.
        with suppress(BrokenPipeError):
            self.connection.send(item)

    def receive(self) -> tuple[str, Any]:
        """The next message: ("counts", counts), ("done", None), ("failed", (cause, trace))."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            if code < 0:
                return "failed", (f"its process was killed by {signal.Signals(-code).name}", None)
            return "failed", (f"its process ended with exit code {code}", None)

    def stop(self) -> None:
        """Ends the process, now."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(task: Task, connection: Connection, parent: int) -> None:
    """Runs the task for every item received, until the parent goes away or stops this process."""
    # Signals may reach every process of a group; the parent alone decides what they mean.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch = sys.modules.get("torch")
    if torch is not None:
        # After a fork, PyTorch's thread pool is gone and waiting for it would last forever.
        torch.set_num_threads(1)
    while True:
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            _run_item(task, connection.recv(), connection)
        except (EOFError, BrokenPipeError):
            return


def _run_item(task: Task, item: int, connection: Connection) -> None:
    """Runs the task for one item and tells the parent how it goes."""
    unsent: list[Counts] = []
    last_report = time.monotonic()
    try:
        for counts in task(item):
            unsent.append(counts)
            if time.monotonic() - last_report > SECONDS_BETWEEN_REPORTS:
                connection.send(("counts", add_counts(unsent)))
                unsent, last_report = [], time.monotonic()
    except Exception as error:
        cause = error.cause if isinstance(error, TaskError) else f"{type(error).__name__}: {error}"
        connection.send(("failed", (cause, traceback.format_exc())))
        return
    if unsent:
        connection.send(("counts", add_counts(unsent)))
    connection.send(("done", None))


def add_counts(counts: list[Counts]) -> Counts:
    """Sum of several progress counts, place by place; () of none."""
    return tuple(map(sum, zip(*counts, strict=True)))
