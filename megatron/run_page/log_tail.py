"""The log of a run that may still be written, read piece by piece: each look costs what is new."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from megatron.reporting.run_log import LOG_FILE, Record, parse_line

KINDS = ("train", "valid", "sample")
_REMEMBERED = 256
"""Bytes before the place read up to, by which a file that was written anew is known."""


class LogTail:
    """What the log in a run's folder says so far.

    A line counts once it is whole. A log that was cut back and written anew, as a resumed run does, is
    read anew; of a step that stands there twice the later line counts; lines that are none are counted
    in `num_damaged` and left out.

    Args:
        folder: of the run; the log need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()

    def _forget(self) -> None:
        self.start: Record | None = None
        self.end: Record | None = None
        """Why the run stopped; None of one that goes on, or was killed."""
        self.resumes: list[int] = []
        """Steps after which the run was continued."""
        self.num_damaged = 0
        self.changed = 0.0
        """When the log was written last, seconds since 1970."""
        self.version = getattr(self, "version", 0) + 1
        """Another number after each change."""
        self._by_step: dict[str, dict[int, Record]] = {kind: {} for kind in KINDS}
        self._in_order: dict[str, list[Record]] = {}
        self._place, self._before = 0, b""
        self._file_number: int | None = None

    def records(self, kind: str) -> list[Record]:
        """The lines of one of `KINDS`, one a step, by rising step."""
        if kind not in self._in_order:
            found = self._by_step[kind]
            self._in_order[kind] = [found[step] for step in sorted(found)]
        return self._in_order[kind]

    def poll(self) -> bool:
        """Read what is new; whether anything was."""
        before = self.version
        try:
            with (self.folder / LOG_FILE).open("rb") as file:
                self._read(file)
        except FileNotFoundError:
            if self.start is not None or self._place:
                self._forget()
        return self.version != before

    def _read(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        file.seek(max(0, self._place - len(self._before)))
        text = file.read()
        is_other = self._file_number not in (None, status.st_ino)
        if is_other or not text.startswith(self._before):
            self._forget()
            file.seek(0)
            text = file.read()
        self._file_number = status.st_ino
        whole, newline, _torn = text[len(self._before) :].rpartition(b"\n")
        if not newline:
            return
        for number, line in enumerate(whole.split(b"\n"), 1):
            self._take(line, f"{self.folder / LOG_FILE}, line {number} of those read last")
        self._place += len(whole) + 1
        self._before = (self._before + whole + newline)[-_REMEMBERED:]
        self.changed = status.st_mtime
        self.version += 1

    def _take(self, line: bytes, where: str) -> None:
        try:
            record = parse_line(line, where)
        except ValueError:
            self.num_damaged += 1
            return
        kind, step = record["kind"], record.get("step", 0)
        if kind == "start":
            self.start = record
        elif kind == "end":
            self.end = record
        elif kind == "resume":
            self.resumes.append(step)
            self.end = None
        elif kind in self._by_step:
            self._by_step[kind][step] = _light(record) if kind == "train" else record
            self._in_order.pop(kind, None)
            self.end = None


def _light(record: Record) -> Record:
    """What is kept of a line of kind "train", of which a run may have very many: no tables but the difficulties."""
    return {
        sys.intern(key): value
        for key, value in record.items()
        if type(value) in (int, float) or key == "difficulties"
    }


def setting(start: Record | None, group: str) -> Mapping[str, Any]:
    """The settings of a group in a run's record of kind "start"; empty where it does not tell them."""
    settings = (start or {}).get("settings")
    found = settings.get(group) if isinstance(settings, Mapping) else None
    return found if isinstance(found, Mapping) else {}
