"""Many runs as one experiment: arms x seeds x budgets from a study file, one queue, one report.

`read_study` reads the file, `jobs_of` spells out its runs, `Queue` trains them, `write_pages` says what they
show. `read_arm` reads runs that no study made.
"""

from megatron.study.fairness import undeclared_differences
from megatron.study.pages import write_pages
from megatron.study.report import Comparison
from megatron.study.results import RESULTS_FILE, RunResult, read_arm

__all__ = [
    "RESULTS_FILE",
    "Comparison",
    "RunResult",
    "read_arm",
    "undeclared_differences",
    "write_pages",
]
