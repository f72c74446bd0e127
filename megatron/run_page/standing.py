"""How far a run is and how it is doing, by its log."""

from collections.abc import Mapping
from typing import Any, Literal

from data_efficiency import files
from megatron.reporting.progress_line import fraction_used
from megatron.reporting.run_log import Record, why_unfinished
from megatron.run_page.columns import is_number
from megatron.run_page.log_tail import LogTail, setting

State = Literal["waiting", "training", "silent", "stopped", "failed", "finished"]
LEAST_SILENCE_SECONDS = 60.0
SILENT_AFTER_LINES = 20
"""Times the usual time between two lines of a log, after which one that does not go on is called silent."""
NUM_RECENT = 200
"""Lines that the usual time is taken from."""
_JOB_FILE = "job.json"
"""A study's word on a run, in the run's folder."""


def standing(log: LogTail, now: float) -> dict[str, Any]:
    """The run's `state`, why it stopped, the part of its budget that is used up, and the seconds left.

    Args:
        now: seconds since 1970.
    """
    train = log.records("train")
    last = train[-1] if train else {}
    state = _state(log, train, now)
    fraction = _fraction(log, log.end or last)
    seconds = last.get("seconds")
    left = None
    if state == "training" and fraction and seconds is not None and is_number(seconds):
        left = seconds * (1 - fraction) / fraction
    return {
        "state": state,
        "reason": str(log.end["reason"]) if log.end and "reason" in log.end else None,
        "fraction": 1.0 if state == "finished" and fraction is None else fraction,
        "seconds_left": left,
        "changed": log.changed or None,
        "resumes": log.resumes,
        "num_damaged": log.num_damaged,
    }


def _fraction(log: LogTail, record: Record) -> float | None:
    """Part of the budget; None as well where the log has something else than numbers there."""
    try:
        fraction = fraction_used(setting(log.start, "training"), record)
    except (TypeError, OverflowError):
        return None
    return fraction if is_number(fraction) else None


def _state(log: LogTail, train: list[Record], now: float) -> State:
    if log.end is not None:
        return "stopped" if why_unfinished(log.end) else "finished"
    if _job(log).get("state") == "failed":
        return "failed"
    if log.start is None:
        return "waiting"
    return "silent" if now - log.changed > _patience(train) else "training"


def _job(log: LogTail) -> Mapping[str, Any]:
    path = log.folder / _JOB_FILE
    try:
        return files.read_json_object(path)
    except (OSError, ValueError):
        return {}


def _patience(train: list[Record]) -> float:
    """Seconds without a line from which on a run is called silent."""
    recent = train[-NUM_RECENT:]
    times = [one["seconds"] for one in recent if is_number(one.get("seconds"))]
    usual = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
    # Start-up, evaluation and checkpoints are no steps: they take their own time.
    return max(LEAST_SILENCE_SECONDS, SILENT_AFTER_LINES * usual)
