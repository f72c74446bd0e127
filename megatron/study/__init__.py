"""Many runs as one experiment: arms x seeds x budgets from a study file, one queue, one report.

`read_study` reads the file, `jobs_of` spells out its runs, `prepare_shared` makes what they share, `Queue` trains
them, here or as the workers that `submit_study` queues, and `write_study_report` says what they show.
`plan_costs` and `seeds_advice` say before what it takes. `read_arm` and `write_pages` compare runs that no
study made.
"""

from megatron.study.costs import format_costs, plan_costs, seeds_advice
from megatron.study.fairness import undeclared_differences
from megatron.study.jobs import Job, jobs_of, pilot_of, runs_left
from megatron.study.pages import write_pages, write_study_report
from megatron.study.report import Comparison
from megatron.study.results import RunResult, read_arm
from megatron.study.slurm import requeue_this_task, submit_study
from megatron.study.stages import is_prepared, prepare_shared
from megatron.study.study_file import Study, read_study
from megatron.study.work import Queue, Slot, make_slots, start_in_slot

__all__ = [
    "Comparison",
    "Job",
    "Queue",
    "RunResult",
    "Slot",
    "Study",
    "format_costs",
    "is_prepared",
    "jobs_of",
    "make_slots",
    "pilot_of",
    "plan_costs",
    "prepare_shared",
    "read_arm",
    "read_study",
    "requeue_this_task",
    "runs_left",
    "seeds_advice",
    "start_in_slot",
    "submit_study",
    "undeclared_differences",
    "write_pages",
    "write_study_report",
]
