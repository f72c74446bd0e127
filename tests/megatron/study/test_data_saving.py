import numpy as np
import pytest

from megatron.study.data_saving import SeedCosts, saving_factor, seeds_in_common

BUDGETS = (1e6, 2e6, 4e6)


def loss_after(tokens):
    """A power law with a floor, as losses follow."""
    return 2.5 + 3.0 * (tokens / 1e6) ** -0.3


def simulated(rng, factor, *, num_seeds=5, budget=2e6, noise=0.01, shared_noise=0.03):
    """Seeds of a baseline at three budgets and of an arm that is worth `factor` times its tokens."""
    seeds = []
    for _ in range(num_seeds):
        shared = rng.normal(0, shared_noise)
        seeds.append(
            SeedCosts(
                baseline=[
                    (cost, loss_after(cost) + shared + rng.normal(0, noise)) for cost in BUDGETS
                ],
                arm=(budget, loss_after(factor * budget) + shared + rng.normal(0, noise)),
            )
        )
    return seeds


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0])
def test_a_known_factor_lies_in_its_interval_as_often_as_it_says(factor):
    rng = np.random.default_rng(0)
    found = [saving_factor(simulated(rng, factor)) for _ in range(300)]
    assert 0.91 <= np.mean([one.low <= factor <= one.high for one in found]) <= 0.99
    assert np.mean([one.factor for one in found]) == pytest.approx(factor, rel=0.01)
    if factor > 1:
        assert np.mean([one.decided for one in found]) > 0.95


def test_without_noise_it_is_exact_at_a_budget():
    [seed] = simulated(np.random.default_rng(0), 2.0, num_seeds=1, noise=0, shared_noise=0)
    found = saving_factor([seed])
    assert found.factor == pytest.approx(2.0, rel=1e-3)
    assert (found.low, found.bound, found.extrapolated) == (None, "", False)


@pytest.mark.parametrize(("loss", "bound"), [(1.0, "at least"), (9.0, "at most")])
def test_a_loss_that_the_baseline_never_has_gives_a_bound(loss, bound):
    baseline = [(cost, loss_after(cost)) for cost in BUDGETS]
    found = saving_factor([SeedCosts(baseline=baseline, arm=(2e6, loss))] * 3)
    assert (found.bound, found.extrapolated) == (bound, True)


def test_a_curve_that_rises_or_has_one_point_is_refused():
    one = SeedCosts(baseline=[(1e6, 5.0)], arm=(1e6, 5.0))
    with pytest.raises(ValueError, match="two budgets at least"):
        saving_factor([one])
    rising = SeedCosts(baseline=[(1e6, 5.0), (2e6, 5.1)], arm=(1e6, 5.0))
    with pytest.raises(ValueError, match="it does not fall"):
        saving_factor([rising])
    with pytest.raises(ValueError, match="no seed has both"):
        saving_factor([])


def test_seeds_count_with_the_budgets_that_they_have_in_common():
    """One seed with a budget more than the others was all that counted."""
    whole = {0.25: (1.0, 5.0), 0.5: (2.0, 4.5), 1.0: (4.0, 4.0)}
    part = {budget: whole[budget] for budget in (0.25, 1.0)}
    arm = dict.fromkeys((1, 2, 3, 4), (4.0, 4.2))
    found = seeds_in_common({1: whole, 2: part, 3: part, 4: {1.0: (4.0, 4.0)}}, arm)
    assert found == [SeedCosts(baseline=[(1.0, 5.0), (4.0, 4.0)], arm=(4.0, 4.2))] * 3
    found = seeds_in_common({1: whole, 2: whole}, arm)
    assert [len(one.baseline) for one in found] == [3, 3]
    # The same number of budgets, but not the same ones.
    lower = {budget: whole[budget] for budget in (0.25, 0.5)}
    assert len(seeds_in_common({1: part, 2: lower}, arm)) == 1
    assert seeds_in_common({}, arm) == []
    [one] = seeds_in_common({1: {1.0: (4.0, 4.0)}}, arm)
    assert one.baseline == [(4.0, 4.0)]


def test_a_curve_that_falls_late_is_read_off_where_it_falls():
    """Its parabola has its highest point near the smallest budget, and falls to the left of that too."""
    baseline = list(zip(BUDGETS, (5.0, 4.98, 4.5), strict=True))
    found = saving_factor([SeedCosts(baseline=baseline, arm=(2e6, 4.98))])
    assert found.factor == pytest.approx(1.0, rel=1e-3)
    assert (found.bound, found.extrapolated) == ("", False)
    assert saving_factor([SeedCosts(baseline=baseline, arm=(2e6, 6.0))]).bound == "at most"
