import os
import signal
from types import SimpleNamespace

import pytest

from data_efficiency import Counters
from megatron import stopping
from megatron.config import TrainingConfig
from megatron.run_state import StopRequest
from megatron.stopping import StopSignals, exit_status, fraction_done, stop_reason


def run(*, steps=0, samples=0, tokens=0.0, signal=0, out_of_time=False, **settings):
    settings = {"train_iters": 1000} | settings
    return SimpleNamespace(
        config=SimpleNamespace(training=TrainingConfig(**settings)),
        counters=Counters(steps=steps, consumed_samples=samples, layer_tokens=round(2 * tokens)),
        num_layers=2,
        seconds=0.0,
        tokens=lambda: tokens,
        stop_request=StopRequest(signal=signal, out_of_time=out_of_time),
        is_first_process=True,
    )


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (run(steps=999), None),
        (run(steps=1000), "--train-iters (1000)"),
        (run(train_samples=64, samples=63), None),
        (run(train_samples=64, samples=64), "--train-samples (64)"),
        (run(train_tokens=500, tokens=499.5), None),
        (run(train_tokens=500, tokens=500.0), "--train-tokens (500 effective)"),
        (run(exit_duration_in_mins=3.0), None),
        (run(exit_duration_in_mins=3.0, out_of_time=True), "--exit-duration-in-mins (3)"),
        (run(signal=signal.SIGUSR1), "signal SIGUSR1"),
    ],
)
def test_budgets(state, reason):
    assert stop_reason(state) == reason


def test_the_nearest_budget_tells_how_far_the_run_is():
    assert fraction_done(run(steps=250)) == 0.25
    assert fraction_done(run(steps=250, train_tokens=100, tokens=80.0)) == 0.8
    assert fraction_done(run(steps=2000)) == 1.0


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (run(steps=1000), 0),
        (run(steps=3), 0),  # the end of the data
        (run(steps=3, signal=signal.SIGUSR1), 75),
        (run(steps=3, out_of_time=True), 75),
        (run(steps=1000, out_of_time=True), 0),
    ],
)
def test_75_says_saved_and_not_finished(state, status, tmp_path, monkeypatch):
    assert exit_status(state) == status
    monkeypatch.setenv("AGAIN_FILE", str(tmp_path / "again"))
    assert exit_status(state) == 0
    assert (tmp_path / "again").exists() == (status == 75)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_signals_are_remembered_and_handlers_given_back(name, monkeypatch):
    clock = [1.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: sum(clock))
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.received == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == number
        # One that comes later is not held back any more.
        clock.append(stopping.SECONDS_OF_ONE_REQUEST + 1)
        reached = []
        stop._before[number] = lambda *_: reached.append(number)
        os.kill(os.getpid(), number)
        assert reached == [number]
        stop._before[number] = before
    assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)
