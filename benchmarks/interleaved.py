"""Contestants that take turns: each lives in a process of its own and steps when it is told to.

Two models in one process would share an allocator and a peak of memory; two runs one after the other
would meet a machine in two states. Here each round steps every contestant once, so that a ratio within a
round compares like with like, and each process has its own peak.
"""

import gc
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol


class Work(Protocol):
    """What a contestant's process holds."""

    def step(self) -> None:
        """Does what is timed, once."""

    def describe(self) -> Any:
        """Anything to be asked for once, after the timing."""


@dataclass(frozen=True)
class StepTime:
    """One step: on the clock, and on all cores together, processes that it started and ended included."""

    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class PeakMemory:
    """Highest resident memory of a process, and how far steps raised it once the work was made."""

    resident_bytes: int
    growth_bytes: int


class Contestant:
    """A process that makes its work when it starts; made by `contestants`."""

    def __init__(
        self,
        make_work: Callable[..., Work],
        arguments: tuple[Any, ...],
        environment: Mapping[str, str],
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_work, arguments))
        with _environment(environment):
            self._process.start()
        theirs.close()
        self.times: list[StepTime] = []

    def step(self, *, count: bool = True) -> None:
        """Take one step, whose time is kept if it counts."""
        taken = self._ask("step")
        if count:
            self.times.append(taken)

    def peak_memory(self) -> PeakMemory:
        """The process's peak so far."""
        peak: PeakMemory = self._ask("memory")
        return peak

    def describe(self) -> Any:
        """What the work tells of itself."""
        return self._ask("describe")

    def median(self, kind: str) -> float:
        """Median of the counted steps; `kind` is a field of `StepTime`."""
        return statistics.median(getattr(taken, kind) for taken in self.times)

    def _ask(self, request: str) -> Any:
        self._connection.send(request)
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError("a benchmark process ended early: its error stands above") from None

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


@contextmanager
def contestants(
    *makers: tuple[Callable[..., Work], tuple[Any, ...]],
    environments: Sequence[Mapping[str, str]] = (),
) -> Iterator[list[Contestant]]:
    """One contestant for each function and its arguments; they end with the block.

    Args:
        environments: of the first contestants, beside this process's own.
    """
    made: list[Contestant] = []
    try:
        rest = [{}] * (len(makers) - len(environments))
        for (make_work, arguments), environment in zip(makers, [*environments, *rest], strict=True):
            made.append(Contestant(make_work, arguments, environment))
        yield made
    finally:
        for contestant in made:
            contestant.close()


@contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def take_turns(
    participants: Sequence[Contestant],
    *,
    num_rounds: int,
    num_warmup_rounds: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Step all in each round, in an order that alternates. The first rounds do not count."""
    started = time.monotonic()
    for number in range(-num_warmup_rounds, num_rounds):
        for contestant in participants if number % 2 == 0 else reversed(participants):
            contestant.step(count=number >= 0)
        done, total = number + num_warmup_rounds + 1, num_rounds + num_warmup_rounds
        left = (time.monotonic() - started) / done * (total - done)
        progress(f"round {done} of {total}, {left:.0f} s left")


def paired_ratio(slower: Contestant, faster: Contestant, kind: str) -> float:
    """Median over the rounds of how many times longer the first one took."""
    return statistics.median(
        getattr(long, kind) / getattr(short, kind)
        for long, short in zip(slower.times, faster.times, strict=True)
    )


def _serve(
    connection: Connection, make_work: Callable[..., Work], arguments: tuple[Any, ...]
) -> None:
    work = make_work(*arguments)
    before = _status_bytes("VmRSS")
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if request == "step":
            gc.collect()
            wall, cpu = time.perf_counter(), _cpu_seconds()
            work.step()
            connection.send(StepTime(time.perf_counter() - wall, _cpu_seconds() - cpu))
        elif request == "memory":
            peak = _status_bytes("VmHWM")
            connection.send(PeakMemory(peak, peak - before))
        else:
            connection.send(work.describe())


def _cpu_seconds() -> float:
    ended_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended_children.ru_utime + ended_children.ru_stime


def _status_bytes(field: str) -> int:
    """A size from Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}: this benchmark needs Linux")
