import pytest

from megatron.study.costs import format_costs, plan_costs, seeds_advice
from megatron.study.jobs import jobs_of
from tests.megatron.study.made_up_runs import write_made_up_run
from tests.megatron.study.studies import STUDY, a_study


def test_tokens_and_operations_of_each_arm(tmp_path):
    text = (
        STUDY.replace("seeds = [1, 2]", "budgets = [0.5, 1.0]")
        + "[arms.scored]\nscoring_flops = 1e9\n"
    )
    half, whole, fast, scored = plan_costs(jobs_of(a_study(tmp_path, text)), None)
    assert (half.arm, half.budget, half.num_runs, half.num_left) == ("baseline", 0.5, 1, 1)
    assert whole.planned.corpus_tokens == pytest.approx(2 * half.planned.corpus_tokens, rel=0.1)
    assert scored.flops == fast.flops + 1e9
    assert whole.seconds is None
    assert "Time: give --flops-per-second" in format_costs([half], 1)


def test_time_comes_from_a_speed_that_is_given_or_from_runs_that_have_finished(tmp_path):
    jobs = jobs_of(a_study(tmp_path))
    [cost, _] = plan_costs(jobs, 1e6)
    assert cost.seconds == pytest.approx(cost.flops / 1e6)
    jobs[0].set_up(tmp_path)
    jobs[0].write(state="finished", seconds=8.0)
    [cost, other] = plan_costs(jobs, None)
    assert cost.seconds == other.seconds == pytest.approx(8.0)
    assert (cost.num_left, other.num_left) == (1, 2)
    assert "About 24s with 1 at once" in format_costs([cost, other], 1)
    assert "About 12s with 2 at once" in format_costs([cost, other], 2)


def test_seeds_for_a_difference_come_from_the_pilots_spread(tmp_path):
    study = a_study(tmp_path)
    jobs = jobs_of(study)
    with pytest.raises(ValueError, match="needs a pilot"):
        seeds_advice(study, jobs, 0.1)
    for job in jobs:
        job.set_up(tmp_path)
        write_made_up_run(
            job.folder, gain=0.1 * (job.arm.name == "fast"), budget=40_000, seed=job.seed
        )
        job.write(state="finished")
    found = seeds_advice(study, jobs, 0.1)
    assert found.startswith("fast, budget 1: spread of the paired difference 0.0")
    assert "over 2 seeds; a difference of 0.1 needs" in found
