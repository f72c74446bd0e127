"""How far a long piece of work is: a bar on a terminal, else a line every half minute."""

import sys
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

LINE_SECONDS = 30.0


def print_to_stderr(line: str) -> None:
    """Print a line on stderr at once."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Shows what is done, speed and time left.

    Args:
        total: how much there is to do; 0 if that is not known.
        unit: what is counted; bytes are shown as kB, MB and so on.
        say: where a line goes while there is no terminal.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str = "bytes",
        say: Callable[[str], None] = print_to_stderr,
    ) -> None:
        self._label, self._total, self._unit, self._say = label, total, unit, say
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=total or None,
            desc=label,
            unit="B" if unit == "bytes" else f" {unit}",
            unit_scale=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
        )

    def update(self, num_done: int, note: str = "") -> None:
        """Show how much of the total is done; `note` may add other counts."""
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(num_done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._say(self._line(num_done, now - self._start, note))

    def _line(self, num_done: int, seconds: float, note: str) -> str:
        parts = [f"{self._label}: {self._amount(num_done)}"]
        if self._total:
            left = seconds * max(self._total - num_done, 0) / max(num_done, 1)
            parts = [
                f"{self._label}: {100 * num_done // self._total}% "
                f"({self._amount(num_done)} of {self._amount(self._total)})",
                f"{tqdm.format_interval(left)} left",
            ]
        parts.append(f"{self._amount(round(num_done / max(seconds, 1e-9)))}/s")
        return ", ".join([*parts, note] if note else parts)

    def _amount(self, number: int) -> str:
        """A number with its unit."""
        return (
            tqdm.format_sizeof(number, "B") if self._unit == "bytes" else f"{number:,} {self._unit}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
