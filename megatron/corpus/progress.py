"""Progress of a pass over input files."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LOG_INTERVAL_SECONDS = 30.0


class ByteProgress:
    """A bar with the time left on a terminal, a line every 30 seconds elsewhere; on stderr.

    Args:
        label: what is going on.
        num_bytes: all bytes of the input, as they lie on disk; 0 if they are not known.
    """

    def __init__(self, label: str, num_bytes: int) -> None:
        self._label = label
        self._num_bytes = num_bytes
        self._start = self._logged = time.monotonic()
        self._bar = tqdm(
            total=num_bytes or None,
            desc=label,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def update(self, num_bytes_done: int, note: str = "") -> None:
        """Shows how many of the bytes are done; `note` may add other counts."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(num_bytes_done - self._bar.n)
        # A disabled bar keeps no count; the log line has its own.
        now = time.monotonic()
        if self._bar.disable and now - self._logged >= LOG_INTERVAL_SECONDS:
            self._logged = now
            print(self._line(num_bytes_done, now - self._start, note), file=sys.stderr, flush=True)

    def _line(self, num_bytes_done: int, seconds: float, note: str) -> str:
        done, total = (tqdm.format_sizeof(size, "B") for size in (num_bytes_done, self._num_bytes))
        left = tqdm.format_interval(
            seconds * max(self._num_bytes - num_bytes_done, 0) / max(num_bytes_done, 1)
        )
        percent = 100 * num_bytes_done // max(self._num_bytes, 1)
        text = f"{self._label}: {percent}% ({done} of {total}), {left} left"
        if not self._num_bytes:
            text = f"{self._label}: {done}"
        return f"{text}, {note}" if note else text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
