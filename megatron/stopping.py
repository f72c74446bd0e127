"""When a run stops: its budgets, its time limit, and the signals that ask it to; and how it tells."""

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from megatron.reporting.progress_line import fraction_used
from megatron.run_records import counter_record
from megatron.run_state import Run, StopRequest

SECONDS_OF_ONE_REQUEST = 2.0
AGAIN = 75
"""Exit status of a run that is saved and not finished: start me again."""
AGAIN_FILE = "AGAIN_FILE"
"""Environment variable: a file to leave instead, for launchers whose exit status is their own."""


def stop_reason(run: Run) -> str | None:
    """Why no further step is to be taken; None while there is no reason.

    Only values that all processes agree on count, so all stop after the same step.
    """
    training, counters, asked = run.config.training, run.counters, run.stop_request
    if asked.signal:
        return f"signal {signal.Signals(asked.signal).name}"
    if training.train_iters is not None and counters.steps >= training.train_iters:
        return f"--train-iters ({training.train_iters})"
    if training.train_samples is not None and counters.consumed_samples >= training.train_samples:
        return f"--train-samples ({training.train_samples})"
    if training.train_tokens is not None and run.tokens() >= training.train_tokens:
        return f"--train-tokens ({training.train_tokens} {training.token_counter})"
    if asked.out_of_time:
        return f"--exit-duration-in-mins ({training.exit_duration_in_mins:g})"
    return None


def exit_status(run: Run) -> int:
    """0 of a run that has come to its end, `AGAIN` of one that was asked to stop before it."""
    return status_after(run.stop_request, fraction_done(run), is_first=run.is_first_process)


def status_after(asked: StopRequest, done: float, *, is_first: bool) -> int:
    """The same of what was asked and the part of the budget that is used up; the first process tells `AGAIN_FILE`."""
    if not asked.signal and not (asked.out_of_time and done < 1):
        return 0
    if AGAIN_FILE not in os.environ:
        return AGAIN
    if is_first:
        Path(os.environ[AGAIN_FILE]).touch()
    return 0


def fraction_done(run: Run) -> float:
    """Part of the run's budget that is used up, by the budget nearest to its end."""
    part = fraction_used(vars(run.config.training), counter_record(run))
    assert part is not None, "settings without a budget are refused"
    return part


class StopSignals:
    """Remembers SIGTERM, SIGUSR1, SIGINT and SIGHUP, so that the loop saves and leaves; a second one kills.

    A launcher hands on what the whole group was sent, so what comes at once is the same request.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal; 0 while there was none."""
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
            # A run of nohup is not to hear that its terminal is gone.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > SECONDS_OF_ONE_REQUEST:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
