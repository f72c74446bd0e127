import numpy as np
import pytest

from data_efficiency.sampling.clusters import Clusters
from data_efficiency.schedule import CustomSchedule, DiscreteSchedule, RootSchedule

NUM_SAMPLES = 1050
VALUES = np.random.default_rng(0).integers(1, 101, NUM_SAMPLES)
LENGTHS = np.random.default_rng(1).integers(1, 65, NUM_SAMPLES)
LINE = RootSchedule(
    min_difficulty=5, max_difficulty=100, total_curriculum_step=40, difficulty_step=5
)
LENGTH_LINE = RootSchedule(
    min_difficulty=8, max_difficulty=60, total_curriculum_step=25, difficulty_step=4
)


def pool(clusters, step):
    places = np.arange(clusters.boundaries(step)[-1])
    return set(clusters.samples_at(places).tolist())


def test_clusters_are_cut_where_the_pool_grows(make_pool):
    clusters = Clusters(NUM_SAMPLES, [make_pool(VALUES, LINE)])
    steps = clusters.admission_steps
    assert steps[0] == 1
    assert (np.diff(steps) > 0).all()
    assert clusters.starts[-1] == NUM_SAMPLES
    assert (np.diff(clusters.starts) > 0).all()


@pytest.mark.parametrize("is_custom", [False, True])
def test_the_pool_of_two_metrics_is_their_intersection(make_pool, tmp_path, is_custom):
    lengths = CustomSchedule(function=LENGTH_LINE.difficulty) if is_custom else LENGTH_LINE
    pools = [
        make_pool(VALUES, LINE, kind="percentile", name="rarity"),
        make_pool(LENGTHS, lengths, maximum=60, name="length"),
    ]
    clusters = Clusters(NUM_SAMPLES, pools, tmp_path)
    by_difficulty = np.argsort(VALUES, kind="stable")
    for step in range(1, 60):
        size = NUM_SAMPLES // 100 * LINE.difficulty(step)
        easy = by_difficulty if LINE.difficulty(step) == 100 else by_difficulty[:size]
        short = np.flatnonzero(LENGTH_LINE.difficulty(step) >= LENGTHS)
        assert pool(clusters, step) == set(easy.tolist()) & set(short.tolist())
    assert len(pool(clusters, 59)) == (LENGTHS <= 60).sum() < NUM_SAMPLES
    assert len(list(tmp_path.glob("clusters-*"))) == (0 if is_custom else 1)


def test_the_order_in_which_metrics_are_configured_changes_nothing(make_pool, tmp_path):
    pools = [make_pool(VALUES, LINE, name="rarity"), make_pool(LENGTHS, LENGTH_LINE, name="length")]
    one, other = (Clusters(NUM_SAMPLES, list_, tmp_path) for list_ in (pools, pools[::-1]))
    places = np.arange(one.starts[-1])
    assert np.array_equal(one.starts, other.starts)
    assert np.array_equal(one.samples_at(places), other.samples_at(places))
    assert len(list(tmp_path.glob("clusters-*"))) == 1


def test_clusters_of_another_index_are_not_taken_for_those_of_this_one(make_pool, tmp_path):
    for values in (VALUES, 101 - VALUES):
        pools = [
            make_pool(values, LINE, name="rarity"),
            make_pool(LENGTHS, LENGTH_LINE, name="length"),
        ]
        clusters = Clusters(NUM_SAMPLES, pools, tmp_path)
        expected = np.flatnonzero((values <= LINE.difficulty(20)) & (LENGTHS <= 48))
        assert pool(clusters, 20) == set(expected.tolist())
    assert len(list(tmp_path.glob("clusters-*"))) == 2


def test_clusters_of_another_exact_order_are_not_taken_for_those_of_this_one(make_pool, tmp_path):
    first = np.random.default_rng(2).permutation(NUM_SAMPLES)
    # Of the same two groups.
    for values in (first, np.where(first < NUM_SAMPLES // 2, NUM_SAMPLES // 2 - 1 - first, first)):
        pools = [
            make_pool(values, LINE, kind="percentile", name="rarity", distinct=2),
            make_pool(LENGTHS, LENGTH_LINE, name="length"),
        ]
        clusters = Clusters(NUM_SAMPLES, pools, tmp_path)
        exact = make_pool(values, LINE, kind="percentile")
        accepted = exact.order[: exact.size_at(LINE.difficulty(20))]
        assert pool(clusters, 20) == set(accepted.tolist()) & set(np.flatnonzero(LENGTHS <= 48))
    assert len(list(tmp_path.glob("clusters-*"))) == 2


def test_prepared_clusters_stand_beside_the_first_index_unless_a_folder_is_named(
    make_pool, tmp_path
):
    pools = [
        make_pool(VALUES, LINE, name="rarity", below=tmp_path / "indexes"),
        make_pool(LENGTHS, LENGTH_LINE, name="length", below=tmp_path / "indexes"),
    ]
    Clusters(NUM_SAMPLES, pools)
    assert len(list((tmp_path / "indexes" / "clusters").glob("clusters-*"))) == 1


def test_a_schedule_that_goes_down_keeps_its_pool(make_pool):
    custom = CustomSchedule(function=lambda step: [0, 10, 50, 20, 60][min(step, 4)])
    clusters = Clusters(NUM_SAMPLES, [make_pool(VALUES, custom)])
    assert [len(pool(clusters, step)) for step in (1, 2, 3, 4)] == [
        int((limit >= VALUES).sum()) for limit in (10, 50, 50, 60)
    ]


@pytest.mark.parametrize("num_metrics", [1, 2])
def test_a_custom_schedule_asked_late_equals_one_asked_at_every_step(make_pool, num_metrics):
    pools = [
        make_pool(VALUES, CustomSchedule(function=lambda step: min(100, 3 * step))),
        make_pool(LENGTHS, LENGTH_LINE, name="length"),
    ]
    late, often = (Clusters(NUM_SAMPLES, pools[:num_metrics]) for _ in range(2))
    late.boundaries(40)
    for step in range(1, 41):
        often.boundaries(step)
    assert np.array_equal(late.starts, often.starts)
    assert np.array_equal(late.admission_steps, often.admission_steps)
    places = np.arange(late.starts[-1])
    assert np.array_equal(late.samples_at(places), often.samples_at(places))


def test_without_a_metric_everything_is_admitted_at_once():
    clusters = Clusters(7, [])
    assert clusters.boundaries(1).tolist() == [0, 7]
    assert pool(clusters, 1) == set(range(7))


def test_an_empty_pool_says_what_would_work(make_pool):
    none_yet = DiscreteSchedule(difficulties=(0, 100), max_steps=(5,), max_difficulty=100)
    with pytest.raises(ValueError, match=r"'rarity' \(difficulty 0\) .* at step 5: difficulty 1 "):
        Clusters(NUM_SAMPLES, [make_pool(VALUES, none_yet)]).boundaries(5)


def test_metrics_that_never_agree_are_refused_and_leave_nothing_behind(make_pool, tmp_path):
    line = DiscreteSchedule(difficulties=(20, 40), max_steps=(5,), max_difficulty=40)
    pools = [
        make_pool(np.arange(1, 101), line, name="up"),
        make_pool(np.arange(100, 0, -1), line, name="down"),
    ]
    with pytest.raises(ValueError, match="'down' .* and 'up' .* admit no common sample at step 1"):
        Clusters(100, pools, tmp_path / "kept")
    assert not [path for path in (tmp_path / "kept").iterdir() if path.is_dir()]
