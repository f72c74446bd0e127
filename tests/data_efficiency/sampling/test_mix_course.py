"""Targets of a mix are the integral of its weights, and the inverse finds every draw."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.config import Mix, normalised
from data_efficiency.sampling.mix_course import MixCourse


@st.composite
def mixes(draw):
    num_parts, num_points = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    weight = st.one_of(st.just(0.0), st.floats(0.01, 5))
    weights = st.lists(weight, min_size=num_parts, max_size=num_parts).filter(any)
    gaps = draw(st.lists(st.integers(1, 60), min_size=num_points - 1, max_size=num_points - 1))
    return Mix(
        weights=tuple(normalised(draw(weights)) for _ in range(num_points)),
        points=tuple(map(float, np.cumsum([0, *gaps]))),
        is_linear=draw(st.booleans()),
    )


@given(mixes(), st.floats(0, 200))
def test_targets_are_the_integral_of_the_weights(mix, num_drawn):
    course = MixCourse(mix)
    # Between the points the weights are lines, whose integral one value in the middle gives.
    edges = np.unique([0, num_drawn, *(at for at in mix.points if at < num_drawn)])
    expected = sum(
        course.weights_at((low + high) / 2) * (high - low)
        for low, high in zip(edges, edges[1:], strict=False)
    )
    np.testing.assert_allclose(course.targets(num_drawn), expected, atol=1e-9)
    assert course.weights_at(num_drawn).sum() == pytest.approx(1)
    assert course.targets(num_drawn).sum() == pytest.approx(num_drawn)


@given(mixes(), st.floats(0.1, 150))
def test_a_target_is_reached_when_it_says(mix, target):
    course = MixCourse(mix)
    for part in range(len(mix.weights[0])):
        (at,) = course.reached_at(part, np.array([target]))
        if np.isinf(at):
            assert course.targets(1e9)[part] <= target + 1e-6
        else:
            assert course.targets(at)[part] == pytest.approx(target, rel=1e-7, abs=1e-6)


def test_a_worked_example():
    course = MixCourse(Mix(weights=((0, 1), (1, 0)), points=(0, 10), is_linear=True))
    assert course.targets(10).tolist() == [5, 5]
    assert course.weights_at(5).tolist() == [0.5, 0.5]
    assert course.reached_at(0, np.array([5.0, 6.0])).tolist() == [10, 11]
    assert course.reached_at(1, np.array([5.0, 6.0])).tolist() == [10, np.inf]
