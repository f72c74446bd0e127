"""What a study will cost before anything runs, and how many seeds a difference needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from data_efficiency import Counters
from data_efficiency.short_numbers import format_count, format_seconds
from megatron.config import GlueRunConfig
from megatron.recipes import planned_cost
from megatron.study.jobs import Job
from megatron.study.statistics import estimate, seeds_needed
from megatron.study.study_file import Study


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """What one run of an arm costs."""

    arm: str
    """With its case."""
    budget: float
    num_runs: int
    num_left: int
    """Of these, not finished."""
    planned: Counters | None
    """Of one run; None where it follows from data that were not read."""
    scoring_flops: float
    seconds: float | None
    """Of one run; None where no run has finished and no speed is given."""

    @property
    def flops(self) -> float:
        """Of one run, scoring included; 0 where the model's are not known."""
        return self.planned.flops + self.scoring_flops if self.planned is not None else 0.0


def plan_costs(jobs: Sequence[Job], flops_per_second: float | None) -> list[ArmCost]:
    """The cost of each arm at each budget.

    Args:
        flops_per_second: of one run; None takes the speed of the study's finished runs.
    """
    measured = _measured_speed(jobs)
    costs = []
    for key in dict.fromkeys((job.label, job.budget) for job in jobs):
        same = [job for job in jobs if (job.label, job.budget) == key]
        planned = _planned(same[0])
        speed = flops_per_second if planned is not None and planned.flops else None
        speed = speed or measured
        costs.append(
            ArmCost(
                arm=key[0],
                budget=key[1],
                num_runs=len(same),
                num_left=sum(job.state != "finished" for job in same),
                planned=planned,
                scoring_flops=same[0].arm.scoring_flops,
                seconds=None if speed is None else _work(same[0]) / speed,
            )
        )
    return costs


def _planned(job: Job) -> Counters | None:
    # The rows of a task are as long as its texts.
    return None if isinstance(job.config, GlueRunConfig) else planned_cost(job.config, 1)


def _work(job: Job) -> float:
    """What a run's time is taken to follow: its operations, else its tokens, else nothing that is known."""
    planned = _planned(job)
    return job.budget if planned is None else float(planned.flops or planned.layer_tokens)


def _measured_speed(jobs: Sequence[Job]) -> float | None:
    """Work a second of the finished runs, from start to end of their processes."""
    done = [job for job in jobs if job.state_here == "finished"]
    seconds = sum(job.record()["seconds"] for job in done)
    return sum(map(_work, done)) / seconds if seconds else None


def format_costs(costs: Sequence[ArmCost], parallel: int) -> str:
    """The costs as a table, with the sum and the time that is left."""
    lines = [
        "| arm | budget | runs | left | steps | corpus tokens | layer tokens | FLOPs a run | time a run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        time = "unknown" if cost.seconds is None else format_seconds(cost.seconds)
        cells = ["unknown"] * 4
        if cost.planned is not None:
            cells = [f"{cost.planned.steps:,}", format_count(cost.planned.corpus_tokens)]
            cells.append(format_count(cost.planned.layer_tokens))
            cells.append(format_count(cost.flops) if cost.flops else "unknown")
        head = [cost.arm, f"{cost.budget:g}", str(cost.num_runs), str(cost.num_left)]
        lines.append(f"| {' | '.join([*head, *cells, time])} |")
    total = sum(cost.num_runs * cost.flops for cost in costs)
    left = sum(cost.num_left for cost in costs)
    lines += ["", f"{format_count(total)} FLOPs in all; {left} runs are left."]
    if not all(cost.flops for cost in costs):
        lines[-1] = f"{left} runs are left."
    if all(cost.seconds is not None for cost in costs):
        seconds = sum(cost.num_left * (cost.seconds or 0) for cost in costs) / parallel
        lines.append(f"About {format_seconds(seconds)} with {parallel} at once.")
    else:
        known = all(cost.flops for cost in costs)
        lines.append(f"Time: {'give --flops-per-second, or ' if known else ''}let one run finish.")
    return "\n".join(lines)


def seeds_advice(study: Study, jobs: Sequence[Job], difference: float) -> str:
    """How many seeds show a difference, from the spread over the seeds that have finished.

    Raises:
        ValueError: for a difference of zero; if no arm has two finished seeds in common with the baseline.
    """
    if not difference or not math.isfinite(difference):
        raise ValueError(f"--difference is {difference:g}: give a difference other than zero")
    values = {(job.case, *job.key): job.result().value for job in jobs if job.state == "finished"}
    lines = []
    for label, case, arm, budget in dict.fromkeys(
        (job.label, job.case, job.arm.name, job.budget) for job in jobs
    ):
        pairs = [
            values[case, arm, seed, budget] - values[case, study.baseline, seed, budget]
            for seed in study.seeds_of(study.arms[arm])
            if {(case, arm, seed, budget), (case, study.baseline, seed, budget)} <= {*values}
        ]
        if arm != study.baseline and len(pairs) > 1:
            spread = estimate(pairs).spread or 0.0
            needed = seeds_needed(spread, difference)
            lines.append(
                f"{label}, budget {budget:g}: spread of the paired difference {spread:.4f} over "
                f"{len(pairs)} seeds; a difference of {difference:g} needs "
                f"{'more than 10,000' if needed is None else needed} seeds (power 80 %)"
            )
    if not lines:
        raise ValueError(
            "--difference needs a pilot: two finished seeds of an arm and of the baseline"
        )
    return "\n".join(lines)
