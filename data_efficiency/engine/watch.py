"""A process of a run that stands still is named by another one within a minute.

A collective has to wait longer than any save takes, so it cannot tell a process that is stopped from one
that is busy. A thread can: it beats while its process writes or computes, and not while it is stopped.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from data_efficiency.engine.ranks import Ranks

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0
_BEAT, _LEFT = b"beat", b"left"
_NUM_GOODBYES = 3
"""A datagram may get lost."""


@contextlib.contextmanager
def watching_processes(ranks: Ranks) -> Iterator[None]:
    """Within the block, end this process, with a line that says why, once its neighbour stands still.

    Every process of the run enters; each watches the next one, from its first beat that gets through.
    """
    host = os.environ.get("MASTER_ADDR")
    if ranks.world == 1 or host is None:
        yield
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        watch = _Watch(ranks, own, host)
        threading.Thread(target=watch.run, daemon=True).start()
        try:
            yield
        finally:
            watch.leave()


class _Watch:
    """Beats to the process before this one, and when the one after it was last heard.

    Args:
        own: a datagram socket.
        host: of process 0.
    """

    def __init__(self, ranks: Ranks, own: socket.socket, host: str) -> None:
        self._ranks, self._own = ranks, own
        own.bind(("", 0))
        own.settimeout(BEAT_SECONDS)
        # [processes, 2]: the address of each, and its port.
        table = ranks.table([_own_address(host), own.getsockname()[1]])
        places = [(socket.inet_ntoa(int(a).to_bytes(4)), int(port)) for a, port in table]
        self._before = places[ranks.rank - 1]
        self._watched = (ranks.rank + 1) % ranks.world
        self._port_of_watched = places[self._watched][1]
        self._has_left = threading.Event()

    def leave(self) -> None:
        """Say that this process no longer beats, and that nothing is wrong with it."""
        self._has_left.set()
        for _ in range(_NUM_GOODBYES):
            self._send(_LEFT)

    def run(self) -> None:
        """Beat and listen until this process leaves."""
        due, heard = time.monotonic(), None
        while not self._has_left.is_set():
            now = time.monotonic()
            if now >= due:
                if now > due + 2 * BEAT_SECONDS and heard is not None:
                    # Stopped itself: that the other was not heard meanwhile says nothing.
                    heard = now
                self._send(_BEAT)
                due = now + BEAT_SECONDS
            with contextlib.suppress(OSError):
                message, (_, port) = self._own.recvfrom(len(_BEAT))
                if port == self._port_of_watched:
                    heard = None if message == _LEFT else time.monotonic()
            if heard is not None and time.monotonic() - heard > SILENCE_SECONDS:
                self._end(time.monotonic() - heard)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._own.sendto(message, self._before)

    def _end(self, seconds: float) -> None:
        print(
            f"error: process {self._watched} of {self._ranks.world} has not answered for "
            f"{seconds:.0f} seconds: it, or its machine, stands still; look there, then continue from "
            "the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        # The main thread waits in a collective and hears nothing.
        os._exit(1)


def _own_address(host: str) -> int:
    """This machine's address as another one reaches it that `host` reaches; 0 if it cannot be told."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        contextlib.suppress(OSError),
    ):
        probe.connect((host, 9))
        return int.from_bytes(socket.inet_aton(probe.getsockname()[0]))
    return 0
