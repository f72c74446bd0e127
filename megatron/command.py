"""How a command ends: an exit code, one line about an error, no traceback for bad input."""

import signal
import sys
from collections.abc import Callable
from types import FrameType


def run_command(action: Callable[[], None]) -> int:
    """Exit code of `action`: 0, 1 after an error a user can mend, 130 or 143 after a signal.

    SIGTERM is turned into an exception while the action runs, so that context managers clean up.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        action()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return 128 + (interruption.args[0] if interruption.args else signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0
