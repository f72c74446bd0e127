import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.sampling import admission, clusters
from data_efficiency.sampling.admission import (
    PoolGrowth,
    Rise,
    admitted_at,
    explain_empty_pool,
)
from data_efficiency.schedule import CustomSchedule, RootSchedule

NUM_SAMPLES = 40


def stages(*difficulties):
    """A schedule with these difficulties at steps 1, 2, ..., the last one from then on."""
    return CustomSchedule(function=lambda step: difficulties[min(step, len(difficulties)) - 1])


def accepted(values, kind, difficulty, maximum):
    """The samples that one metric accepts, found by sorting."""
    if kind == "value":
        return {sample for sample, value in enumerate(values) if value <= difficulty}
    by_difficulty = sorted(range(len(values)), key=lambda sample: (values[sample], sample))
    share = len(values) if difficulty >= maximum else len(values) // maximum * difficulty
    return set(by_difficulty[:share])


metrics = st.tuples(
    st.lists(st.integers(0, 9), min_size=NUM_SAMPLES, max_size=NUM_SAMPLES),
    st.sampled_from(["value", "percentile", "quantised"]),
    st.lists(st.integers(0, 9), min_size=5, max_size=5),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(metrics, min_size=1, max_size=3), st.lists(st.integers(1, 5), max_size=3))
def test_each_sample_is_admitted_once_when_the_last_metric_accepts_it(make_pool, described, stops):
    pools = [
        make_pool(
            values,
            stages(*difficulties),
            kind="percentile" if kind == "quantised" else kind,
            maximum=9,
            name=f"metric{number}",
            distinct=3 if kind == "quantised" else None,
        )
        for number, (values, kind, difficulties) in enumerate(described)
    ]
    growth = PoolGrowth(pools)
    rises = [rise for stop in [*sorted(stops), 5] for rise in growth.advance(stop)]
    found = {}
    for rise in rises:
        for samples, _ in admitted_at(pools, [rise]):
            for sample in samples.tolist():
                assert sample not in found
                found[sample] = rise.step
    expected = {}
    for step in range(1, 6):
        common = set(range(NUM_SAMPLES))
        for values, kind, difficulties in described:
            common &= accepted(values, kind, max(difficulties[:step]), 9)
        for sample in common:
            expected.setdefault(sample, step)
    assert found == expected
    # All rises at once are the same, and come in the same order, as one after the other.
    monkeypatch = pytest.MonkeyPatch()
    results = []
    for piece in (1, 2**20):
        monkeypatch.setattr(admission, "_PIECE_SAMPLES", piece)
        order = np.zeros(NUM_SAMPLES, np.int64)
        ends = clusters._fill(order, 0, pools, rises)
        results.append((ends, order.tolist()))
    monkeypatch.undo()
    assert results[0] == results[1]
    assert set(order[: ends[-1]].tolist() if ends else ()) == set(expected)


def test_rises_are_handed_over_in_pieces(make_pool, monkeypatch):
    pools = [
        make_pool(np.arange(50), stages(100), name="a"),
        make_pool(np.arange(50)[::-1], stages(100), name="b"),
    ]
    monkeypatch.setattr(admission, "_PIECE_SAMPLES", 8)
    rise = Rise(step=1, before=(0, 0), after=(30, 40))
    pieces = [samples for samples, _ in admitted_at(pools, [rise])]
    assert max(piece.size for piece in pieces) <= 8
    assert np.concatenate(pieces).tolist() == list(range(10, 30))


@given(
    st.lists(st.integers(-3, 3) | st.floats(-3, 3, width=32), min_size=1, max_size=20),
    st.integers(0, 19),
    st.sampled_from(["value", "percentile"]),
)
def test_the_smallest_difficulty_that_accepts_a_sample(make_pool, values, place, kind):
    pool = make_pool(np.asarray(values, np.float32), stages(1), kind=kind, maximum=7)
    place = place % len(values)
    difficulty = pool.difficulty_that_accepts(place)
    assert pool.size_at(difficulty - 1) <= place < pool.size_at(difficulty)
    if kind == "value":
        for bound in (difficulty, difficulty - 1, 4):
            assert pool.size_at(bound) == pool.index.num_at_most(bound)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=30),
    st.sampled_from(["value", "percentile"]),
    st.integers(1, 4),
    st.lists(st.integers(1, 80), max_size=2),
)
def test_rises_that_accept_nothing_are_jumped_over(make_pool, values, kind, degree, stops):
    line = RootSchedule(
        min_difficulty=3,
        max_difficulty=300,
        total_curriculum_step=80,
        difficulty_step=1,
        root_degree=degree,
    )
    pool = make_pool(values, line, kind=kind, maximum=300)
    growth = PoolGrowth([pool])
    rises = [rise for stop in [*sorted(stops), None] for rise in growth.advance(stop)]
    sizes = [pool.size_at(line.difficulty(step)) for step in range(1, 81)]
    expected = [
        (step, size)
        for step, size in enumerate(sizes, start=1)
        if size > (sizes[step - 2] if step > 1 else 0)
    ]
    assert [(rise.step, *rise.after) for rise in rises] == expected


def test_the_work_goes_by_the_values_not_by_the_steps(make_pool):
    """Ten billion rises of the schedule, forty of which matter."""
    line = RootSchedule(
        min_difficulty=1, max_difficulty=10**10, total_curriculum_step=10**10, difficulty_step=1
    )
    values = np.arange(1, 41) * (10**10 // 40)
    rises = PoolGrowth([make_pool(values, line), make_pool(values, line)]).advance(None)
    assert [rise.step for rise in rises] == values.tolist()
    assert rises[-1].after == (40, 40)


def test_a_schedule_is_asked_a_few_times_for_each_value(make_pool, monkeypatch):
    """Over ten billion steps, by two metrics with two thousand values each."""
    calls, difficulty = [], RootSchedule.difficulty
    monkeypatch.setattr(
        RootSchedule, "difficulty", lambda line, step: calls.append(step) or difficulty(line, step)
    )
    lines = [
        RootSchedule(
            min_difficulty=10**8,
            max_difficulty=10**9,
            total_curriculum_step=total,
            difficulty_step=1,
            root_degree=2,
        )
        for total in (10**10, 10**9 + 7)
    ]
    values = np.random.default_rng(0).integers(1, 10**9, (2, 2000))
    pools = [make_pool(own, line) for own, line in zip(values, lines, strict=True)]
    rises = PoolGrowth(pools).advance(None)
    assert rises[-1].after == (2000, 2000)
    assert len(calls) < 5 * len(rises)


VALUES = np.arange(100) % 50 + 7


@pytest.mark.parametrize(
    ("kind", "values", "maximum", "remedy"),
    [
        ("value", VALUES, 100, 7),
        ("value", VALUES - 0.5, 100, 7),
        ("percentile", VALUES, 100, 1),
        ("percentile", VALUES[:20], 100, 100),
    ],
)
def test_a_metric_that_admits_nothing_is_named_with_what_would_work(
    make_pool, kind, values, maximum, remedy
):
    hard = make_pool(values, stages(0), kind=kind, maximum=maximum, name="hard")
    easy = make_pool(values, stages(100), name="easy")
    message = explain_empty_pool([easy, hard], 3)
    assert "metric 'hard' (difficulty 0) admits no sample at step 3" in message
    assert f"difficulty {remedy} is the smallest that does" in message


def test_metrics_without_a_common_sample_are_named_with_what_would_work(make_pool):
    def pools(first, second):
        return [
            make_pool(VALUES, stages(first), name="up"),
            make_pool(VALUES[::-1], stages(second), kind="percentile", name="down"),
        ]

    message = explain_empty_pool(pools(20, 30), 1)
    assert "metrics 'up' (difficulty 20) and 'down' (difficulty 30) admit no common" in message
    up, down = (int(number) for number in re.findall(r"at (\d+)", message))
    for first, second, works in ((up, 30, 1), (up - 1, 30, 0), (20, down, 1), (20, down - 1, 0)):
        tried = pools(first, second)
        rises = PoolGrowth(tried).advance(1)
        admitted = list(admitted_at(tried, rises)) if rises else []
        assert bool(admitted) == works


def test_three_metrics_of_which_two_exclude_each_other(make_pool):
    pools = [
        make_pool(VALUES, stages(10), name="up"),
        make_pool(VALUES[::-1], stages(10), name="down"),
        make_pool(np.where(np.abs(VALUES - 32) < 3, 1, 9), stages(1), name="upper"),
    ]
    message = explain_empty_pool(pools, 1)
    assert "'up' (difficulty 10) and 'down' (difficulty 10) and 'upper' (difficulty 1)" in message
    assert message.endswith("start more than one of them higher")
