"""Which clusters a configuration draws from, and an order that is known before its index is."""

import numpy as np
import pytest

from data_efficiency.config import Curriculum, DataEfficiencyConfig, Mix, Order
from data_efficiency.sampling.blend import Blend
from data_efficiency.sampling.clusters import Clusters
from data_efficiency.sampling.drawn_clusters import make_clusters, order_without_index
from data_efficiency.sampling.parts import PartedClusters
from data_efficiency.schedule import DiscreteSchedule

HALVES = Mix(weights=((0.5, 0.5),), points=(0.0,))
STAGES = DiscreteSchedule(difficulties=(3, 9), max_steps=(5,), max_difficulty=9)


def test_a_pool_and_a_blend(make_pool):
    pools, settings = (
        [make_pool([1, 2, 3, 4], STAGES)],
        {"order": None, "feedback": None, "folder": None},
    )
    assert isinstance(make_clusters(4, pools, parts=None, **settings), Clusters)
    blend = Blend(sizes=(2, 2), mix=HALVES)
    assert isinstance(make_clusters(4, pools, parts=blend, **settings), PartedClusters)


def test_an_order_of_a_part_without_samples_is_refused(make_pool, tmp_path):
    pools, blend = [make_pool([1, 2], STAGES)], Blend(sizes=(2, 0), mix=HALVES)
    with pytest.raises(ValueError, match="part 1 of the blend has no sample, .* leave it out"):
        make_clusters(2, pools, order=Order(), feedback=None, parts=blend, folder=tmp_path)


def test_where_an_order_stands_is_known_without_its_index():
    config = DataEfficiencyConfig.of(Curriculum("a", index="nowhere", order="descending"))
    played = order_without_index(config, 1000)
    places = [played.percent_at(np.array([drawn])) for drawn in (0, 250, 500, 999, 1000)]
    assert places == pytest.approx([100, 75, 50, 0, 100], abs=1)
    quadrants = DataEfficiencyConfig.of(
        *(Curriculum(name, index="i", order="ascending", bands=2) for name in ("a", "b"))
    )
    played = order_without_index(quadrants, 1000)
    assert [played.percent_at(np.array([at])) for at in (0, 250, 500, 750)] == [12, 38, 62, 88]
