"""How far an analysis is: a bar on a terminal, else a line in the log every half minute."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Counts samples and tokens, and shows speed and time left.

    Args:
        description: what is being done, a few words.
        total_samples: samples to do.
        seconds_between_lines: of the log, where there is no terminal.
    """

    def __init__(
        self, description: str, total_samples: int, seconds_between_lines: float = 30.0
    ) -> None:
        self.description = description
        self.total_samples = total_samples
        self.seconds_between_lines = seconds_between_lines
        self.num_samples = 0
        self.num_tokens = 0
        self.start = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=total_samples,
            desc=description,
            unit=" samples",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def update(self, num_samples: int, num_tokens: int) -> None:
        """Counts more samples and tokens as done."""
        self.num_samples += num_samples
        self.num_tokens += num_tokens
        now = time.monotonic()
        if not self.bar.disable:
            if self.num_tokens:
                speed = self.num_tokens / max(now - self.start, 1e-9)
                self.bar.set_postfix_str(f"{speed:,.0f} tokens/s", refresh=False)
            self.bar.update(num_samples)
        elif now - self.last_line >= self.seconds_between_lines:
            self.last_line = now
            logger.info(self.line(now - self.start))

    def line(self, seconds: float) -> str:
        """The state after so many seconds as one line of text."""
        speed = self.num_samples / max(seconds, 1e-9)
        left = (self.total_samples - self.num_samples) / max(speed, 1e-9)
        tokens = (
            f", {self.num_tokens / max(seconds, 1e-9):,.0f} tokens/s" if self.num_tokens else ""
        )
        return (
            f"{self.description}: {self.num_samples:,} of {self.total_samples:,} samples, "
            f"{speed:,.0f} samples/s{tokens}, {tqdm.format_interval(left)} left"
        )
