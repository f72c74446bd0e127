import math

import numpy as np
import pytest
from scipy import stats

from megatron.study.statistics import estimate, jackknife, seeds_needed, verdict


def test_one_seed_has_no_interval_and_decides_nothing():
    one = estimate([-5.0])
    assert (one.low, one.high, one.spread, one.half_width) == (None, None, None, None)
    assert verdict(one) == "undecided"


def test_an_interval_that_touches_zero_decides_nothing():
    values = [-0.1, -0.3, 0.05]
    assert verdict(estimate(values)) == "undecided"
    assert verdict(estimate([value - 1 for value in values])) == "better"
    assert verdict(estimate([value + 1 for value in values])) == "worse"


def test_the_interval_is_that_of_scipys_own_t_test():
    values = [0.3, -0.2, 0.9, 0.4]
    found = estimate(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_no_value_is_an_error():
    with pytest.raises(ValueError, match="no run of this arm has finished"):
        estimate([])


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_so_many_seeds_see_the_difference_as_often_as_asked_for(effect):
    num = seeds_needed(1.0, effect, power=0.8)
    rng = np.random.default_rng(0)

    def seen(size):
        samples = rng.normal(-effect, 1.0, (4000, size))
        return np.mean([verdict(estimate(list(row))) == "better" for row in samples])

    assert seen(num) >= 0.78
    assert seen(num - 1) < 0.82


def test_a_difference_of_zero_needs_no_number():
    with pytest.raises(ValueError, match="other than zero"):
        seeds_needed(1.0, 0.0)
    assert seeds_needed(1.0, 1e-4) is None


def test_the_jackknifes_interval_holds_the_truth_at_its_level():
    """Of a ratio of means, which is no mean of ratios."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        pairs = [(2 + rng.normal(0, 0.2), 1 + rng.normal(0, 0.1)) for _ in range(6)]
        found = jackknife(pairs, lambda some: sum(a for a, _ in some) / sum(b for _, b in some))
        hits += found.low <= 2 <= found.high
    assert 0.93 <= hits / 1000 <= 0.97
    assert math.isfinite(found.mean)
