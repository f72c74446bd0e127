"""How a command ends: an exit code, and one line about whatever went wrong."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType, TracebackType

STOPPED = "interrupted; nothing half-written is left"
TRACEBACK_FLAG = "--traceback"
TRACEBACK_HELP = f"With {TRACEBACK_FLAG}, anywhere, an error shows where in the program it arose."

_TOLD = (ValueError, OSError, ImportError, subprocess.SubprocessError)
"""What says in its own words what is wrong with the input, the system or the installation."""
_OWN_PACKAGES = ("data_efficiency", "megatron", "examples_deepspeed")
"""Whose error types speak for themselves too."""
_UNREADABLE = (
    "BadZipFile",
    "EOFError",
    "LZMAError",
    "OverflowError",
    "RecursionError",
    "SafetensorError",
    "UnpicklingError",
    "error",  # zlib's, struct's, binascii's
)
"""Types of what readers raise for files that nobody wrote on purpose."""
_SIGPIPE = 13
"""Its number everywhere; Python on Windows does not name it."""
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")


def run_command(
    action: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    when_stopped: str | None = None,
) -> int:
    """Exit code of `action`: its own, 0 if it gives none; 1 after an error, which is told in one line.

    Args:
        action: parses its words and does what they say.
        argv: the command line; not given: the process's own.
        when_stopped: what to say after SIGTERM or Ctrl-C, where the interruption says nothing itself;
            the exit code is 130 or 143 then. While the action runs, SIGTERM raises KeyboardInterrupt, so
            that context managers clean up. Without it SIGTERM does what it always does.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    try:
        with nullcontext() if when_stopped is None else _sigterm_raised():
            code = action([word for word in words if word != TRACEBACK_FLAG]) or 0
            _end_output()
            return code
    except BrokenPipeError:
        _end_output()
        return 128 + _SIGPIPE
    except KeyboardInterrupt as interruption:
        told = interruption.args[0] if interruption.args else signal.SIGINT
        says = "interrupted" if when_stopped is None else when_stopped
        print(told if isinstance(told, str) else says, file=sys.stderr)
        return 128 + (signal.SIGINT if isinstance(told, str) else told)
    except Exception as error:
        if TRACEBACK_FLAG in words:
            traceback.print_exc()
        print(f"error: {line_about(error)}", file=sys.stderr)
        return 1


def line_about(error: BaseException) -> str:
    """What went wrong, in one line; of a fault of the program, that it is one and where to report it."""
    kind = type(error).__name__
    text = " ".join(str(error).split())
    named = f"{kind}: {text}" if text else kind
    ancestors = {ancestor.__name__ for ancestor in type(error).__mro__}
    if ancestors.intersection(_OUT_OF_MEMORY) or "can't allocate memory" in text:
        return f"not enough memory ({named})"
    is_ours = type(error).__module__.partition(".")[0] in _OWN_PACKAGES
    if text and (is_ours or isinstance(error, _TOLD)):
        return text
    if ancestors.intersection(_UNREADABLE):
        return f"something in the input cannot be read ({named}); {TRACEBACK_FLAG} shows where"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return (
        f"{named}{place}; this is a fault of the program: please report it as CONTRIBUTING.md says, "
        f"with what {TRACEBACK_FLAG} shows"
    )


def _open_closed_streams() -> None:
    """Give a process that was started without input, output or error (`>&-`) ones that lead nowhere.

    Python has None for them, and the next file that is opened would have their number, by which libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  it stays open


def _end_output() -> None:
    """Write out what was printed; where nobody reads it any more, Python would complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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


def tell_of_imports(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Tell in one line what ends a command before it runs: Ctrl-C, a package that is missing or broken.

    A command makes it `sys.excepthook` before it imports what takes seconds.
    """
    if TRACEBACK_FLAG in sys.argv or not issubclass(kind, (KeyboardInterrupt, ImportError)):
        sys.__excepthook__(kind, error, trace)
    else:
        is_stop = issubclass(kind, KeyboardInterrupt)
        print("interrupted" if is_stop else f"error: {line_about(error)}", file=sys.stderr)
