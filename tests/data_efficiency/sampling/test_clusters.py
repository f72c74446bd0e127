import numpy as np
import pytest

from data_efficiency.config import MetricConfig
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.sampling.clusters import Clusters
from data_efficiency.schedule import CustomSchedule, DiscreteSchedule, RootSchedule


def metric(schedule, difficulty_type="value", maximum=100):
    return MetricConfig(
        name="rarity",
        difficulty_type=difficulty_type,
        clustering_type="schedule_based",
        min_difficulty=1,
        max_difficulty=maximum,
        schedule=schedule,
        index_path="unused",
    )


@pytest.fixture
def index(tmp_path):
    values = np.random.default_rng(0).integers(1, 101, 1050)
    return DifficultyIndex.write(
        tmp_path / "index", values, metric="rarity", dataset_identity={"name": "test"}
    )


def pool(clusters, step):
    places = np.arange(clusters.boundaries(step)[-1])
    return set(clusters.samples_at(places).tolist())


LINE = RootSchedule(
    min_difficulty=5, max_difficulty=100, total_curriculum_step=40, difficulty_step=5
)


def test_value_pool_is_every_sample_up_to_the_difficulty(index):
    clusters = Clusters(1050, metric(LINE), index)
    for step in range(1, 60):
        expected = np.flatnonzero(index.values <= LINE.difficulty(step))
        assert pool(clusters, step) == set(expected.tolist())


def test_percentile_pool_is_the_published_share_of_the_order(index):
    clusters = Clusters(1050, metric(LINE, "percentile"), index)
    by_difficulty = np.argsort(index.values, kind="stable")
    for step in range(1, 60):
        percentile = LINE.difficulty(step)
        size = 1050 if percentile == 100 else 1050 // 100 * percentile
        assert pool(clusters, step) == set(by_difficulty[:size].tolist())


def test_clusters_are_cut_where_the_pool_grows(index):
    clusters = Clusters(1050, metric(LINE), index)
    steps = clusters.admission_steps
    assert steps[0] == 1
    assert (np.diff(steps) > 0).all()
    assert clusters.starts[-1] == 1050
    assert (np.diff(clusters.starts) > 0).all()


def test_a_schedule_that_goes_down_keeps_its_pool(index):
    custom = CustomSchedule(function=lambda step: [0, 10, 50, 20, 60][min(step, 4)])
    clusters = Clusters(1050, metric(custom), index)
    assert [len(pool(clusters, step)) for step in (1, 2, 3, 4)] == [
        int((index.values <= limit).sum()) for limit in (10, 50, 50, 60)
    ]


def test_a_custom_schedule_asked_late_equals_one_asked_at_every_step(index):
    def rises(step):
        return min(100, 3 * step)

    late = Clusters(1050, metric(CustomSchedule(function=rises)), index)
    late.boundaries(30)
    often = Clusters(1050, metric(CustomSchedule(function=rises)), index)
    for step in range(1, 31):
        often.boundaries(step)
    assert np.array_equal(late.starts, often.starts)
    assert np.array_equal(late.admission_steps, often.admission_steps)


def test_without_a_metric_everything_is_admitted_at_once():
    clusters = Clusters(7, None, None)
    assert clusters.boundaries(1).tolist() == [0, 7]
    assert pool(clusters, 1) == set(range(7))


def test_an_empty_pool_says_what_would_work(index, tmp_path):
    none_yet = DiscreteSchedule(difficulties=(0, 100), max_steps=(5,), max_difficulty=100)
    with pytest.raises(
        ValueError, match="'rarity' admits no sample at step 1 .* easiest sample has"
    ):
        Clusters(1050, metric(none_yet), index).boundaries(1)
    few = DifficultyIndex.write(
        tmp_path / "few", np.arange(50), metric="rarity", dataset_identity={"name": "few"}
    )
    with pytest.raises(ValueError, match="50 samples, fewer than max_difficulty .* lower max"):
        Clusters(50, metric(LINE, "percentile"), few).boundaries(1)
