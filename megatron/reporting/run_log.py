"""The log of a run: one JSON object a line in `<run>/log.jsonl`, written here and read back here.

Kinds of lines: "start" (what the run is), "train" (one a logged step), "valid" (one an evaluation)
and "end" (why it stopped). A line is flushed as soon as it is written, so a killed run loses one
line at most. A resumed run cuts its log back to the checkpoint's step first: each step stands in
the log once, whatever happened in between.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data_efficiency import files
from megatron.reporting.trackers import Trackers

Record = Mapping[str, Any]

LOG_FILE = "log.jsonl"
EARLIER_LOG_FILE = "log.earlier.jsonl"
DAMAGED_LOG_FILE = "log.damaged.jsonl"
ASKED_TO_STOP = ("signal", "--exit-duration-in-mins")
"""What reasons begin with of runs that stopped before their end."""


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """The lines of one run, in order of their step."""

    start: Record
    train: tuple[Record, ...]
    valid: tuple[Record, ...]
    end: Record | None
    resumed: tuple[Record, ...] = ()
    """A line for each start that went on from a checkpoint."""


def why_unfinished(end: Record | None) -> str | None:
    """Why a run has not come to its end, by its record of kind "end"; None where it has."""
    if end is None:
        return "its log has no end: it goes on, or was killed"
    reason = str(end.get("reason", ""))
    return f"stopped: {reason}" if reason.startswith(ASKED_TO_STOP) else None


def losses_of(start: Record) -> tuple[str, ...]:
    """Names of a run's losses, by its record of kind "start"; by the first one runs are compared."""
    return tuple(start.get("losses", ("lm",)))


class RunLogger:
    """Writer of one run's log, which trackers are shown as well where asked.

    Args:
        start: the record of kind "start".
        trackers: names of trackers, and `project`, what those among them that are services keep the run
            under.
        resumed: counters of the checkpoint the run continues from: later lines are cut off. None
            starts a new log; a log already there is kept as `log.earlier.jsonl`.
        loaded_from: folder of the run that is continued, whose log a log elsewhere begins with.
        say: prints a line; told of lines that cannot be read, which are left out.

    Raises:
        ModuleNotFoundError: a tracker is not installed.
        ValueError: a tracker cannot be opened.
    """

    def __init__(
        self,
        folder: str | Path,
        start: Record,
        *,
        trackers: Sequence[str] = (),
        project: str = "data-efficiency",
        resumed: Record | None = None,
        loaded_from: str | Path | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.path = Path(folder) / LOG_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        source = Path(loaded_from or folder) / LOG_FILE
        is_own = source.resolve() == self.path.resolve()
        kept: list[Record] = []
        last_step = None
        if resumed is not None and is_own and self.path.is_file():
            records = [one for one in read_lines(self.path) if not isinstance(one, ValueError)]
            last_step = max((one.get("step", 0) for one in records), default=0)
        if resumed is not None:
            kept = lines_until(source, resumed["step"], say)
        if self.path.exists() and (resumed is None or not is_own):
            os.replace(self.path, self.path.with_name(EARLIER_LOG_FILE))
        if not is_own or not any(record["kind"] == "start" for record in kept):
            kept = [start, *(record for record in kept if record["kind"] != "start")]
        files.write_file(self.path, "".join(map(_line, kept)))
        self._trackers = Trackers(
            trackers,
            self.path.parent,
            project,
            settings=start.get("settings", {}),
            log=kept,
            last_step=last_step,
            say=say,
        )
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        """Appends one line, on disk for other processes to read when this returns.

        Numbers that are not finite become null, as JSON has no word for them.
        """
        self._file.write(_line(record))
        self._file.flush()
        self._trackers.send(record)

    def close(self) -> None:
        """Closes all files; the logger is of no use afterwards."""
        self._file.close()
        self._trackers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def lines_until(path: Path, last_step: int, say: Callable[[str], None]) -> list[Record]:
    """The records of a log up to a step; none where there is no log.

    Lines that say a run ended are left out, since it continues. A log with lines that cannot be read is
    kept as it is under another name.
    """
    if not path.is_file():
        return []
    kept, problems = [], []
    for record in read_lines(path):
        if isinstance(record, ValueError):
            problems.append(record)
        elif record["kind"] != "end" and record.get("step", 0) <= last_step:
            kept.append(record)
    if problems:
        aside = path.with_name(DAMAGED_LOG_FILE)
        aside.write_bytes(path.read_bytes())
        say(
            f"warning: {problems[0]}; {len(problems)} such lines are left out, {aside.name} has all"
        )
    return kept


def _line(record: Record) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def read_lines(path: Path) -> Iterator[Record | ValueError]:
    """The records of a log, and in place of a line that is none what is wrong with it.

    A torn last line, as a kill leaves it, is passed over.
    """
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_line(line, f"{path}, line {number}")
        except ValueError as error:
            if number < len(lines):
                yield ValueError(f"{error}: the log was edited or damaged")
        else:
            yield record


def parse_line(line: bytes, where: str) -> Record:
    """The record of one line of a log.

    Raises:
        ValueError: naming `where` it stands, for a line that is none.
    """
    record = files.parse_json(line, where)
    step = record.get("step", 0) if isinstance(record, dict) else None
    if type(step) is not int or not isinstance(record.get("kind"), str):
        raise ValueError(f"{where} is no object with a kind and a step")
    return record


def read_log(folder: str | Path) -> RunLog:
    """The log of the run in `folder`, one line a step of each kind.

    Raises:
        FileNotFoundError: The folder holds no log.
        ValueError: A line is broken, or the log does not say what run it is of.
    """
    path = Path(folder) / LOG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give the folder a run was saved to")
    last: dict[str, dict[int, Record]] = {
        kind: {} for kind in ("start", "resume", "train", "valid", "end")
    }
    for record in read_lines(path):
        if isinstance(record, ValueError):
            raise ValueError(f"{record}; mend or remove that line")
        step = 0 if record["kind"] in ("start", "end") else record.get("step", 0)
        last.setdefault(record["kind"], {})[step] = record
    if not last["start"]:
        raise ValueError(f"{path} has no line of kind 'start': it is not the log of a run")
    return RunLog(
        start=last["start"][0],
        train=tuple(last["train"][step] for step in sorted(last["train"])),
        valid=tuple(last["valid"][step] for step in sorted(last["valid"])),
        end=last["end"].get(0),
        resumed=tuple(last["resume"][step] for step in sorted(last["resume"])),
    )
