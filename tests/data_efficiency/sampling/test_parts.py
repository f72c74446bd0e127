import numpy as np
import pytest

from data_efficiency.config import Mix
from data_efficiency.sampling.blend import Blend
from data_efficiency.sampling.clusters import Clusters
from data_efficiency.sampling.parts import PartedClusters
from data_efficiency.schedule import DiscreteSchedule

THIRDS = Blend(sizes=(4, 2), mix=Mix(weights=((2 / 3, 1 / 3),), points=(0.0,)))
STAGES = DiscreteSchedule(difficulties=(2, 6), max_steps=(5,), max_difficulty=6)


def test_each_cluster_of_the_whole_becomes_one_of_each_part_in_it(make_pool):
    """Difficulties 1 to 6 over parts of four and two samples; two samples are admitted at first, later all."""
    pools = [make_pool([1, 3, 4, 5, 2, 6], STAGES)]
    clusters = PartedClusters(Clusters(6, pools), THIRDS, is_in_order=False)
    assert clusters.boundaries(1).tolist() == [0, 1, 2]
    assert clusters.parts.tolist() == [0, 1]
    assert clusters.samples_at(np.arange(2)).tolist() == [0, 4]
    assert clusters.boundaries(6).tolist() == [0, 1, 2, 5, 6]
    assert clusters.parts.tolist() == [0, 1, 0, 1]
    assert sorted(clusters.samples_at(np.arange(2, 5)).tolist()) == [1, 2, 3]
    rows = clusters.chooser(6)(
        np.random.default_rng(0), clusters.boundaries(6), np.zeros(4, np.int64), 300
    )
    assert np.bincount(clusters.parts[rows]).tolist() == [200, 100]


def test_a_part_that_is_drawn_and_has_no_admitted_sample_is_named(make_pool):
    pools = [make_pool([1, 2, 3, 4, 5, 6], STAGES)]
    clusters = PartedClusters(Clusters(6, pools), THIRDS, is_in_order=False)
    with pytest.raises(ValueError, match="no sample of part 1 of the blend is admitted at step 1"):
        clusters.boundaries(1)


def test_whole_parts_are_split_by_their_ends_alone():
    clusters = PartedClusters(Clusters(6, []), THIRDS, is_in_order=True)
    assert clusters.boundaries(1).tolist() == [0, 4, 6]
    assert clusters.samples_at(np.arange(6)).tolist() == [*range(6)]
