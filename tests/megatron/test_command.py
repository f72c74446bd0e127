import os
import signal

import pytest

from megatron.command import run_command


def raise_error(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("one line"), FileNotFoundError("one line")])
def test_error_of_a_user_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: raise_error(error)) == 1
    assert capsys.readouterr().err == "error: one line\n"


def test_error_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        run_command(lambda: raise_error(KeyError("bug")))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_unwinds_and_is_told_by_the_exit_code(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    unwound = []

    def action() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(action) == code
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert "interrupted" in capsys.readouterr().err


def test_success() -> None:
    assert run_command(lambda: None) == 0
