"""How fast a thread writes beside training, whose steps wait for their slowest core."""

import os
import time
from threading import Event

REST = 19
"""Seconds of rest after each second of work where no core is free: a twentieth of one core."""
_NEARLY = 0.1
"""Of a core: who keeps no more than that of it busy leaves it free."""


class Pace:
    """Of one writer. It rests after each block where training keeps all cores busy, until somebody waits for what it writes.

    Args:
        rest: seconds for each second of the writer's own computing time; 0 never rests.
        cores: that this process may keep busy; `own_cores` unless told.
    """

    def __init__(self, rest: float = REST, cores: float | None = None) -> None:
        self._rest = rest
        self._cores = own_cores() if cores is None else cores
        self._is_awaited = Event()
        self._last = time.perf_counter(), time.process_time()

    def hurry(self) -> None:
        """Rest no more, from now on; for any thread to call."""
        self._is_awaited.set()

    def after(self, seconds: float) -> None:
        """Rest, where it must be, after so many seconds of computing since the last call."""
        if self._rest and not self._leaves_a_core_free(seconds):
            self._is_awaited.wait(self._rest * seconds)

    def _leaves_a_core_free(self, seconds: float) -> bool:
        """Whether the process's other threads have, since the last call."""
        before, self._last = self._last, (time.perf_counter(), time.process_time())
        passed, computed = (now - then for now, then in zip(self._last, before, strict=True))
        return computed - seconds <= (self._cores - 1 + _NEARLY) * passed


def own_cores() -> float:
    """How many cores each of a launcher's processes on this machine has."""
    # Who binds each process to cores of its own, as SLURM may, shows it those alone.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


UNPACED = Pace(0)
"""Of a writer that training waits for anyway."""
