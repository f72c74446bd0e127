"""What a run says before and while it trains.

`RunLogger` writes `<run>/log.jsonl`, the one record of a run, and `read_log` reads it; `progress_line` is its
line on the console, `format_losses` a part of it. Trackers are shown the same lines.
`WaitingTime` and `weights_checksum` are facts that `megatron.study` compares runs by.
"""

from megatron.reporting.machine import WaitingTime, weights_checksum
from megatron.reporting.progress_line import format_losses, progress_line
from megatron.reporting.run_log import RunLog, RunLogger, read_log
from megatron.reporting.trackers import RUN_FILE

__all__ = [
    "RUN_FILE",
    "RunLog",
    "RunLogger",
    "WaitingTime",
    "format_losses",
    "progress_line",
    "read_log",
    "weights_checksum",
]
