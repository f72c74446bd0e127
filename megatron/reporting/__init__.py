"""What a run says while it trains, and what several runs say beside each other.

`RunLogger` writes `<run>/log.jsonl`, the one record of a run; `progress_line` is its line on the
console, `format_losses` a part of it. `read_log`, `compare_runs`, `format_comparison` and `plot_report` read finished logs.
`format_plan` and `plot_plan` show what a run will do.
"""

from megatron.reporting.comparison import compare_runs, format_comparison
from megatron.reporting.picture import plot_report
from megatron.reporting.plan_report import format_plan, plot_plan
from megatron.reporting.progress_line import format_losses, progress_line
from megatron.reporting.run_log import RunLog, RunLogger, read_log

__all__ = [
    "RunLog",
    "RunLogger",
    "compare_runs",
    "format_comparison",
    "format_losses",
    "format_plan",
    "plot_plan",
    "plot_report",
    "progress_line",
    "read_log",
]
