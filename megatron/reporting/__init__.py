"""What a run says while it trains, and what several runs say beside each other.

`RunLogger` writes `<run>/log.jsonl`, the one record of a run; `progress_line` is its line on the
console, `format_losses` a part of it. `read_log`, `compare_runs`, `format_comparison` and `plot_report` read finished logs.
`format_plan` and `plot_plan` show what a run will do. `read_seeds`, `seed_figures`, `format_seeds` and
`plot_seeds` put the finished runs of several seeds beside each other.
"""

from megatron.reporting.comparison import compare_runs, format_comparison
from megatron.reporting.picture import plot_report
from megatron.reporting.plan_report import format_plan, plot_plan
from megatron.reporting.progress_line import format_losses, progress_line
from megatron.reporting.run_log import RunLog, RunLogger, read_log
from megatron.reporting.seed_comparison import format_seeds, plot_seeds, read_seeds, seed_figures

__all__ = [
    "RunLog",
    "RunLogger",
    "compare_runs",
    "format_comparison",
    "format_losses",
    "format_plan",
    "format_seeds",
    "plot_plan",
    "plot_report",
    "plot_seeds",
    "progress_line",
    "read_log",
    "read_seeds",
    "seed_figures",
]
