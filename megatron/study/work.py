"""The queue of a study's runs: each free slot takes the next one, on any number of machines at once.

A run is claimed by a lock in its folder, so workers on several machines share one queue through the file
system alone; it is over when its exit code says so. Exit code 75 means: saved, start me again.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from data_efficiency import files
from data_efficiency.short_numbers import format_seconds
from megatron.config import RUN_KINDS
from megatron.reporting import RUN_FILE
from megatron.stopping import AGAIN
from megatron.study.jobs import OUTPUT_FILE, Job
from megatron.study.stages import ROOT, child_environment
from megatron.study.study_file import Study

POLL_SECONDS = 0.2
CLAIM = ".claim.lock"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Room for one run at a time."""

    cores: Sequence[int]
    """Processor cores that it alone has; none: it shares all."""
    device: str | None = None
    """Number of a GPU, which several slots may share."""


def make_slots(parallel: int, *, num_devices: int = 0) -> list[Slot]:
    """So many slots, with the cores shared out evenly and the GPUs in turn.

    Raises:
        ValueError: for fewer cores than slots, where there is no GPU.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if parallel < 1 or (cores and len(cores) < parallel and not num_devices):
        raise ValueError(
            f"--parallel is {parallel}: must be 1 to the number of cores, {len(cores)}, or runs starve"
        )
    share = max(1, len(cores) // parallel)
    return [
        Slot(
            cores=cores[number * share : (number + 1) * share] or cores,
            device=str(number % num_devices) if num_devices else None,
        )
        for number in range(parallel)
    ]


def start_in_slot(
    command: Sequence[str], slot: Slot, output: IO[bytes] | None = None
) -> "subprocess.Popen[bytes]":
    """A process with the slot's cores, as many threads, and its GPU; SIGTERM reaches it if this process ends.

    Args:
        output: where it prints to; None: where this process does.
    """
    environment = child_environment(on_gpu=slot.device is not None)
    if slot.cores:
        environment["OMP_NUM_THREADS"] = str(len(slot.cores))
    if slot.device is not None:
        # Devices are counted among those that this process sees.
        seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        environment["CUDA_VISIBLE_DEVICES"] = seen[int(slot.device)] if seen else slot.device

    def pin() -> None:
        if slot.cores:
            os.sched_setaffinity(0, slot.cores)
        _end_with_parent()

    return subprocess.Popen(
        command,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a Ctrl-C reaches the runs through this process, once
        preexec_fn=pin,
    )


@dataclass
class _Running:
    job: Job
    slot: Slot
    process: "subprocess.Popen[bytes]"
    claim: contextlib.ExitStack
    was_asked: bool = False
    """Whether it was told to stop: a second time would end it unsaved."""
    start: float = field(default_factory=time.monotonic)


class Queue:
    """Runs the jobs of a study until none is left.

    Args:
        say: where a line goes.
    """

    def __init__(
        self,
        study: Study,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        say: Callable[[str], None],
    ) -> None:
        self._study, self._jobs, self._slots = study, jobs, slots
        self._say = say
        self._running: list[_Running] = []
        self._tried: set[str] = set()
        self._stop = 0
        self._start = time.monotonic()
        self._done_cost = 0.0

    def run(self) -> int:
        """Exit code: 0 if all runs are finished, 1 if one failed, 75 after a signal."""
        with self._signals():
            while True:
                self._reap()
                if self._stop:
                    self._ask()
                else:
                    self._fill()
                if not self._running and (self._stop or not self._others_work()):
                    break
                time.sleep(POLL_SECONDS)
        if self._stop:
            self._say("stopped; the same command goes on from here")
            return AGAIN
        failed = [job for job in self._jobs if job.state != "finished"]
        for job in failed:
            self._say(f"failed: {job.name}; what it printed: {job.folder / OUTPUT_FILE}")
        return 1 if failed else 0

    def _fill(self) -> None:
        """Start a run in each free slot."""
        for slot in self._slots:
            if any(one.slot is slot for one in self._running):
                continue
            started = next(filter(None, (self._started(job, slot) for job in self._open())), None)
            if started is None:
                return
            self._running.append(started)

    def _open(self) -> Iterator[Job]:
        """Runs that neither are over nor were tried in vain."""
        for job in self._jobs:
            if job.state != "finished" and str(job.folder) not in self._tried:
                yield job

    def _started(self, job: Job, slot: Slot) -> _Running | None:
        """The run in progress; None where another worker has it or has ended it meanwhile."""
        claim = contextlib.ExitStack()
        try:
            claim.enter_context(files.file_lock(self._claim(job)))
        except BlockingIOError:
            return None
        if job.state == "finished":
            claim.close()
            return None
        aside = job.set_up(self._study.output)
        if aside is not None:
            self._say(
                f"{job.name}: its settings have changed, or its corpus; the earlier run is now {aside}"
            )
        goes_on = job.record()["attempts"] > 0
        job.write(state="running", attempts=job.record()["attempts"] + 1)
        self._say(f"{self._place()} {job.name}{': goes on' if goes_on else ''}")
        return _Running(job, slot, self._spawn(job, slot), claim)

    def _claim(self, job: Job) -> Path:
        """Outside of the run's folder, which may be put aside."""
        return self._study.output / "claims" / f"{job.name_in(self._study.output)}{CLAIM}"

    def _spawn(self, job: Job, slot: Slot) -> "subprocess.Popen[bytes]":
        script = self._study.program or RUN_KINDS[job.config.architecture].script
        command = [sys.executable, str(ROOT / script), "--config", str(job.folder / RUN_FILE)]
        with (job.folder / OUTPUT_FILE).open("ab") as output:
            return start_in_slot(command, slot, output)

    def _reap(self) -> None:
        """Note how the runs that have ended did."""
        for one in [*self._running]:
            code = one.process.poll()
            if code is None:
                continue
            self._running.remove(one)
            seconds = time.monotonic() - one.start
            state = {0: "finished", AGAIN: "stopped"}.get(code, "failed")
            if one.was_asked and code == -signal.SIGTERM:
                state = "stopped"  # asked to before it listened: it had nothing to save
            one.job.write(
                state=state, exit_code=code, seconds=one.job.record()["seconds"] + seconds
            )
            one.claim.close()
            if state == "finished":
                self._done_cost += one.job.budget
                self._say(f"{self._place()} {one.job.name}: {seconds:.0f}s{self._time_left()}")
            elif state == "failed":
                self._tried.add(str(one.job.folder))
                self._say(f"{one.job.name} failed (exit code {code}): {_last_line(one.job)}")

    def _ask(self) -> None:
        """Let each run save and leave."""
        for one in self._running:
            if not one.was_asked:
                one.was_asked = True
                with contextlib.suppress(ProcessLookupError):
                    one.process.send_signal(signal.SIGTERM)

    def _others_work(self) -> bool:
        """Whether a run is left that another worker holds."""
        for job in self._open():
            try:
                with files.file_lock(self._claim(job)):
                    pass
            except BlockingIOError:
                return True
            return not self._stop  # free: `_fill` takes it
        return False

    def _place(self) -> str:
        done = sum(job.state == "finished" for job in self._jobs)
        return f"[{done}/{len(self._jobs)}]"

    def _time_left(self) -> str:
        """From the time that this worker's runs took for their budgets."""
        left = sum(job.budget for job in self._jobs if job.state != "finished")
        if not left:
            return ""
        seconds = (time.monotonic() - self._start) * left / self._done_cost
        return f", about {format_seconds(seconds)} left"

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Remember a signal, whatever is being done when it comes."""

        def stop(number: int, _frame: FrameType | None) -> None:
            self._stop = number

        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before: dict[Any, Any] = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_with_parent() -> None:
    """Let this process get SIGTERM, and so save, when the queue is killed. Linux alone has that.

    Source: prctl(2), PR_SET_PDEATHSIG = 1.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _last_line(job: Job) -> str:
    lines = (job.folder / OUTPUT_FILE).read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")
