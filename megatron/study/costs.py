"""What a study will cost before anything runs, and how many seeds a difference needs."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.recipes import planned_cost
from megatron.reporting.progress_line import format_count, format_seconds
from megatron.study.jobs import Job
from megatron.study.statistics import estimate, seeds_needed
from megatron.study.study_file import Study


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """What one run of an arm costs."""

    arm: str
    budget: float
    num_runs: int
    num_left: int
    """Of these, not finished."""
    steps: int
    corpus_tokens: int
    flops: float
    """Of one run, scoring included."""
    seconds: float | None
    """Of one run; None where no run has finished and no speed is given."""


def plan_costs(jobs: Sequence[Job], flops_per_second: float | None) -> list[ArmCost]:
    """The cost of each arm at each budget.

    Args:
        flops_per_second: of one run; None takes the speed of the study's finished runs.
    """
    speed = flops_per_second or _measured_speed(jobs)
    costs = []
    for key in dict.fromkeys((job.arm.name, job.budget) for job in jobs):
        same = [job for job in jobs if (job.arm.name, job.budget) == key]
        planned = planned_cost(same[0].config, 1)
        costs.append(
            ArmCost(
                arm=key[0],
                budget=key[1],
                num_runs=len(same),
                num_left=sum(job.state != "finished" for job in same),
                steps=planned.steps,
                corpus_tokens=planned.corpus_tokens,
                flops=planned.flops + same[0].arm.scoring_flops,
                seconds=None if speed is None else planned.flops / speed,
            )
        )
    return costs


def _measured_speed(jobs: Sequence[Job]) -> float | None:
    """FLOPs a second of the finished runs, from start to end of their processes."""
    done = [job for job in jobs if job.state_here == "finished"]
    seconds = sum(job.record()["seconds"] for job in done)
    return sum(planned_cost(job.config, 1).flops for job in done) / seconds if seconds else None


def format_costs(costs: Sequence[ArmCost], parallel: int) -> str:
    """The costs as a table, with the sum and the time that is left."""
    lines = [
        "| arm | budget | runs | left | steps | corpus tokens | FLOPs a run | time a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        time = "unknown" if cost.seconds is None else format_seconds(cost.seconds)
        lines.append(
            f"| {cost.arm} | {cost.budget:g} | {cost.num_runs} | {cost.num_left} | {cost.steps:,} | "
            f"{format_count(cost.corpus_tokens)} | {format_count(cost.flops)} | {time} |"
        )
    total = sum(cost.num_runs * cost.flops for cost in costs)
    left = sum(cost.num_left for cost in costs)
    lines += ["", f"{format_count(total)} FLOPs in all; {left} runs are left."]
    if all(cost.seconds is not None for cost in costs):
        seconds = sum(cost.num_left * (cost.seconds or 0) for cost in costs) / parallel
        lines.append(f"About {format_seconds(seconds)} with {parallel} at once.")
    else:
        lines.append("Time: give --flops-per-second, or let one run finish.")
    return "\n".join(lines)


def seeds_advice(study: Study, jobs: Sequence[Job], difference: float) -> str:
    """How many seeds show a difference, from the spread over the seeds that have finished.

    Raises:
        ValueError: if no arm has two finished seeds in common with the baseline.
    """
    values = {
        (job.arm.name, job.budget, job.seed): job.result().value
        for job in jobs
        if job.state == "finished"
    }
    lines = []
    for arm in study.arms:
        for budget in sorted({job.budget for job in jobs if job.arm.name == arm}):
            pairs = [
                value - values[study.baseline, budget, seed]
                for (name, share, seed), value in values.items()
                if (name, share) == (arm, budget) and (study.baseline, budget, seed) in values
            ]
            if arm != study.baseline and len(pairs) > 1:
                spread = estimate(pairs).spread or 0.0
                needed = seeds_needed(spread, difference)
                lines.append(
                    f"{arm}, budget {budget:g}: spread of the paired difference {spread:.4f} over "
                    f"{len(pairs)} seeds; a difference of {difference:g} needs "
                    f"{'more than 10,000' if needed is None else needed} seeds (power 80 %)"
                )
    if not lines:
        raise ValueError(
            "--difference needs a pilot: two finished seeds of an arm and of the baseline"
        )
    return "\n".join(lines)
