"""How a command ends: an exit code, one line about an error, no traceback for bad input."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType

STOPPED = "interrupted; nothing half-written is left"


def run_command(
    action: Callable[[], int | None],
    *,
    more_errors: tuple[type[Exception], ...] = (),
    when_stopped: str | None = None,
) -> int:
    """Exit code of `action`: its own, 0 if it gives none; 1 after an error that a user can mend.

    Args:
        more_errors: errors told in one line besides bad values, the system's and missing packages.
        when_stopped: what to say after SIGTERM or Ctrl-C, where the interruption says nothing itself;
            the exit code is 130 or 143 then. While the action runs, SIGTERM raises KeyboardInterrupt, so
            that context managers clean up. Without it signals do what they always do.
    """
    told_errors: tuple[type[Exception], ...] = (
        ValueError,
        OSError,
        ModuleNotFoundError,
        *more_errors,
    )
    try:
        with nullcontext() if when_stopped is None else _sigterm_raised():
            return action() or 0
    except told_errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        if when_stopped is None:
            raise
        told = interruption.args[0] if interruption.args else signal.SIGINT
        print(told if isinstance(told, str) else when_stopped, file=sys.stderr)
        return 128 + (signal.SIGINT if isinstance(told, str) else told)


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, with its number, within the block."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
