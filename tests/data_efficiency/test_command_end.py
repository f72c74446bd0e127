import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from data_efficiency.analysis.map_reduce import AnalysisError
from data_efficiency.command_end import run_command

ROOT = Path(__file__).resolve().parents[2]


def raise_error(error):
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one line"), "one line"),
        (FileNotFoundError("one line"), "one line"),
        (AnalysisError("one line"), "one line"),
        (ValueError("two\n  lines"), "two lines"),
        (RecursionError("too deep"), "something in the input cannot be read (RecursionError: too deep)"),
        (SafetensorError("bad header"), "something in the input cannot be read (SafetensorError: bad"),
        (EOFError(), "something in the input cannot be read (EOFError)"),
        (zipfile.BadZipFile("x"), "something in the input cannot be read (BadZipFile: x)"),
        (OverflowError("too large"), "something in the input cannot be read (OverflowError: too large)"),
        (np._core._exceptions._ArrayMemoryError((2,), np.dtype("u1")), "not enough memory ("),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory (RuntimeError"),
        (KeyError("bug"), "KeyError: 'bug' (test_command_end.py, line "),
        (ValueError(), "ValueError (test_command_end.py, line "),
    ],
)  # fmt: skip
def test_every_error_is_one_line_and_exit_code_1(error, line, capsys):
    assert run_command(lambda _: raise_error(error), []) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}")
    assert told.count("\n") == 1
    is_fault = "this is a fault of the program: please report it as CONTRIBUTING.md says" in told
    assert is_fault == line.startswith(("KeyError", "ValueError"))


def test_the_traceback_comes_when_asked_for_and_no_parser_sees_the_flag(capsys):
    seen = []
    assert run_command(seen.append, ["--traceback", "--x"]) == 0
    assert seen == [["--x"]]
    assert run_command(lambda _: raise_error(ValueError("one line")), ["--traceback"]) == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "error: one line")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_unwinds_and_is_told_by_the_exit_code(number, code, capsys):
    unwound = []

    def action(_):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(action, [], when_stopped="gone") == code
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "gone\n"


def test_interruption_that_says_what_is_left(capsys):
    def stop(error, **how):
        return run_command(lambda _: raise_error(error), [], **how)

    assert stop(KeyboardInterrupt("3 left"), when_stopped="gone") == 130
    assert capsys.readouterr().err == "3 left\n"
    assert stop(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_exit_code_is_what_the_action_gives():
    assert run_command(lambda _: None, []) == 0
    assert run_command(lambda _: 75, []) == 75


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_one_that_leads_nowhere(closed, tmp_path):
    script = "import sys\nfrom data_efficiency.command_end import run_command\n"
    script += "def action(_):\n    print(sys.stdin.read(), sys.stderr.isatty())\n"
    script += "    open('a', 'w').write('kept')\n"
    script += "raise SystemExit(run_command(action, []))"
    ended = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / "a").read_text() == "kept"


def test_a_reader_that_has_had_enough_is_no_error():
    script = "from data_efficiency.command_end import run_command\n"
    script += "raise SystemExit(run_command(lambda _: print('x\\n' * 100_000), []))"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
