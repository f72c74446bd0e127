import os
import signal

import pytest

from megatron.command import run_command


def raise_error(error):
    raise error


@pytest.mark.parametrize("error", [ValueError("one line"), FileNotFoundError("one line")])
def test_error_of_a_user_is_one_line(error, capsys):
    assert run_command(lambda: raise_error(error)) == 1
    assert capsys.readouterr().err == "error: one line\n"


def test_error_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        run_command(lambda: raise_error(KeyError("bug")))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_unwinds_and_is_told_by_the_exit_code(number, code, capsys):
    unwound = []

    def action():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(action, when_stopped="gone") == code
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "gone\n"


def test_interruption_that_says_what_is_left(capsys):
    assert run_command(lambda: raise_error(KeyboardInterrupt("3 left")), when_stopped="gone") == 130
    assert capsys.readouterr().err == "3 left\n"
    with pytest.raises(KeyboardInterrupt):
        run_command(lambda: raise_error(KeyboardInterrupt()))


def test_exit_code_is_what_the_action_gives():
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 75) == 75
    assert run_command(lambda: raise_error(KeyError("x")), more_errors=(KeyError,)) == 1
