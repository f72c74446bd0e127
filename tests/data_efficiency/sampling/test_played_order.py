"""Orders through the sampler: each sample once a pass, by rank, and exactly resumable."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_efficiency.config import load_config
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.sampling.random_rank import random_rank
from data_efficiency.sampling.sampler import CurriculumSampler
from tests.data_efficiency.sampling.resumed_batches import resumed_batches
from tests.json_sections import curriculum_config, sorting_metric

NUM_SAMPLES = 960
RARITY = np.random.default_rng(1).integers(1, 300, NUM_SAMPLES)
LENGTH = np.random.default_rng(2).integers(1, 50, NUM_SAMPLES)
PARTS = (640, 320)
ORDERS = {
    "ascending": {"kind": "ascending"},
    "strict": {"kind": "ascending", "num_buckets": NUM_SAMPLES},
    "descending": {"kind": "descending", "num_buckets": 10},
    "folded": {"kind": "folded", "num_folds": 3, "num_buckets": 7},
    "saw": {"kind": "saw", "num_folds": 4},
    "interleaved": {"kind": "interleaved", "num_folds": 5, "num_buckets": 12},
    "quadrants": {"kind": "sequence", "sequence": [2, 3, 0, 1]},
    "stages": {
        "kind": "stages",
        "stages": [["shuffled", 2], ["ascending", 3], ["descending", 1]],
        "num_buckets": 20,
    },
    "spread": {"kind": "ascending", "num_buckets": 10, "pass_samples": 480},
    "repeated": {"kind": "folded", "num_folds": 2, "num_buckets": 10, "pass_samples": 2400},
}
MIX = {"weights": [[2, 1], [1, 4]], "at_samples": [0, 700], "between": "linear"}


class Parts(list):
    """Samples of two parts that are drawn in proportion to their sizes."""

    part_sizes, part_weights = PARTS, tuple(map(float, PARTS))
    identity = describe_dataset(range(NUM_SAMPLES))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, identity = tmp_path_factory.mktemp("index"), describe_dataset(range(NUM_SAMPLES))
    for name, values in (("rarity", RARITY), ("length", LENGTH)):
        DifficultyIndex.write(folder / name, values, metric=name, dataset_identity=identity)
    return folder


def sampler(paths, order, *, bands=None, control=False, dataset=None, rows=16, mix=None, **ranks):
    if order.get("kind") == "sequence":
        bands = (2, 2)
    metrics = {"rarity": sorting_metric(paths / "rarity")}
    if bands is not None:
        for name, count in zip(("rarity", "length"), bands, strict=True):
            metrics[name] = sorting_metric(paths / name)
            metrics[name] |= {} if count is None else {"num_bands": count}
    content = curriculum_config(metrics)
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning |= {"order": order, "random_rank": control}
    if mix is not None:
        content["data_efficiency"]["data_sampling"]["mix"] = mix
    config = load_config(content).data_efficiency
    return CurriculumSampler(dataset or range(NUM_SAMPLES), config, micro_batch_size=rows, **ranks)


def drawn(sampler, steps):
    return np.concatenate([sampler.next_global_batch().samples for _ in range(steps)])


@pytest.fixture(params=["plain", "control", "blend", "blend and control"])
def setting(request):
    dataset = Parts(range(NUM_SAMPLES)) if "blend" in request.param else None
    return {"dataset": dataset, "control": "control" in request.param}


@pytest.mark.parametrize("name", sorted(set(ORDERS) - {"spread", "repeated"}))
def test_each_sample_once_a_pass(paths, name, setting):
    played = sampler(paths, ORDERS[name], **setting)
    steps = NUM_SAMPLES // 16
    passes = [drawn(played, steps) for _ in range(2)]
    for one in passes:
        assert sorted(one) == [*range(NUM_SAMPLES)]
    if name != "strict":
        assert not np.array_equal(*passes)


@pytest.mark.parametrize("name", sorted(set(ORDERS) - {"spread", "repeated"}))
@pytest.mark.parametrize("control", [False, True])
def test_no_sample_comes_again_before_its_part_is_through_while_the_mix_changes(
    paths, name, control
):
    played = sampler(
        paths, ORDERS[name], dataset=Parts(range(NUM_SAMPLES)), mix=MIX, control=control
    )
    found, start = drawn(played, 3 * NUM_SAMPLES // 16), 0
    for size in PARTS:
        of_part = found[(found >= start) & (found < start + size)]
        assert len(of_part) > size
        for first in range(0, len(of_part) - size, size):
            assert sorted(of_part[first : first + size]) == [*range(start, start + size)]
        start += size


@pytest.mark.parametrize("name", ORDERS)
def test_the_control_has_the_same_pacing_while_the_mix_changes(paths, name):
    ordered, control = (
        sampler(paths, ORDERS[name], control=on, dataset=Parts(range(NUM_SAMPLES)), mix=MIX)
        for on in (False, True)
    )
    for _ in range(50):
        first, second = ordered.next_global_batch(), control.next_global_batch()
        np.testing.assert_array_equal(second.samples, random_rank(first.samples, 1234, PARTS))
        assert second.part_epochs == first.part_epochs


@pytest.mark.parametrize("bands", [(4, None), (2, 2)])
@pytest.mark.parametrize("kind", ["ascending", "descending"])
def test_each_sample_once_a_pass_with_two_metrics(paths, kind, bands, setting):
    played = sampler(paths, {"kind": kind}, bands=bands, **setting)
    assert sorted(drawn(played, NUM_SAMPLES // 16)) == [*range(NUM_SAMPLES)]


def test_a_strict_order_is_a_sort(paths):
    order = np.argsort(RARITY, kind="stable")
    np.testing.assert_array_equal(drawn(sampler(paths, ORDERS["strict"]), 60), order)


def test_buckets_are_played_one_after_the_other(paths):
    order = np.argsort(RARITY, kind="stable")
    found = drawn(sampler(paths, {"num_buckets": 10}), 60)
    for number in range(10):
        piece = slice(96 * number, 96 * (number + 1))
        assert {*found[piece]} == {*order[piece]}
        assert not np.array_equal(found[piece], order[piece])


def test_quadrants_in_the_order_that_is_named(paths):
    played = sampler(paths, {"kind": "sequence", "sequence": [2, 3, 0, 1]}, bands=(2, 2))
    found, middle = drawn(played, 60), NUM_SAMPLES // 2
    is_hard = []
    for values in (RARITY, LENGTH):
        ranks = np.empty(NUM_SAMPLES, int)
        ranks[np.argsort(values, kind="stable")] = np.arange(NUM_SAMPLES)
        is_hard.append(ranks >= middle)
    quadrant = 2 * is_hard[0][found] + is_hard[1][found]
    changes = quadrant[np.flatnonzero(np.diff(quadrant, prepend=-1))]
    assert changes.tolist() == [2, 3, 0, 1]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.integers(1, 5 * NUM_SAMPLES), num_buckets=st.integers(1, 50))
def test_a_pass_of_any_length_goes_through_all_buckets(paths, draws, num_buckets):
    """Each bucket has its share of the draws, within one; and none is drawn again before all are."""
    order = {"num_buckets": num_buckets, "pass_samples": draws}
    found = drawn(sampler(paths, order, rows=draws), 1)
    ranks = np.empty(NUM_SAMPLES, int)
    ranks[np.argsort(RARITY, kind="stable")] = np.arange(NUM_SAMPLES)
    edges = np.arange(num_buckets + 1) * NUM_SAMPLES // num_buckets
    bucket = np.searchsorted(edges, ranks[found], "right") - 1
    assert (np.diff(bucket) >= 0).all()
    counts, sizes = np.bincount(bucket, minlength=num_buckets), np.diff(edges)
    assert np.abs(counts - draws * sizes / NUM_SAMPLES).max() <= 1
    times = np.bincount(found, minlength=NUM_SAMPLES)
    in_order = times[np.argsort(RARITY, kind="stable")]
    for first, last in zip(edges, edges[1:], strict=False):
        assert np.ptp(in_order[first:last]) <= 1


@pytest.mark.parametrize("name", ORDERS)
def test_visits_tell_a_sample_from_its_next_time(paths, name):
    played = sampler(paths, ORDERS[name])
    seen = set()
    for _ in range(400):
        batch = played.next_global_batch()
        pairs = [*zip(batch.samples.tolist(), batch.visits.tolist(), strict=True)]
        assert not seen.intersection(pairs)
        seen.update(pairs)


@pytest.mark.parametrize("name", ORDERS)
def test_the_control_has_the_same_pacing(paths, name, setting):
    if setting["control"]:
        return
    dataset = setting["dataset"]
    ordered, control = (
        sampler(paths, ORDERS[name], control=on, dataset=dataset) for on in (False, True)
    )
    for _ in range(130):
        first, second = ordered.next_global_batch(), control.next_global_batch()
        sizes = [NUM_SAMPLES] if dataset is None else PARTS
        np.testing.assert_array_equal(second.samples, random_rank(first.samples, 1234, sizes))
        assert second.difficulties == first.difficulties
        np.testing.assert_array_equal(second.visits, first.visits)


@pytest.fixture(params=[0, pytest.param(2, marks=pytest.mark.full)], ids=["0", "2"])
def num_workers(request):
    return request.param


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(
    "mixed", [False, pytest.param(True, marks=pytest.mark.full)], ids=["", "mix"]
)
def test_a_resume_is_as_no_interruption_with_other_ranks_and_workers(
    paths, name, setting, mixed, num_workers
):
    if mixed and setting["dataset"] is None:
        return
    setting = {**setting, "mix": MIX if mixed else None}
    straight = sampler(paths, ORDERS[name], **setting)
    expected = [straight.next_global_batch() for _ in range(90)]

    def sampler_of(rank, ranks):
        place = {"data_parallel_rank": rank, "data_parallel_size": ranks}
        return sampler(paths, ORDERS[name], rows=16 // ranks, **place, **setting)

    parts = [(1, 0, 13), (2, num_workers, 40), (4, 0, 37)]
    found = resumed_batches(sampler_of, NUM_SAMPLES, parts)
    for batch, samples in zip(expected, found, strict=True):
        np.testing.assert_array_equal(batch.samples, samples)


def test_parts_of_a_blend_go_through_their_buckets_together(paths):
    """Shares of the sources in each bucket differ from the whole by less than 0.1 %, or one sample."""
    played = sampler(paths, {"num_buckets": 8}, dataset=Parts(range(NUM_SAMPLES)), rows=120)
    ranks, start = np.empty(NUM_SAMPLES, int), 0
    for size in PARTS:
        one = np.argsort(RARITY[start : start + size], kind="stable")
        ranks[start + one] = np.arange(size) * 8 // size
        start += size
    for number in range(8):
        samples = played.next_global_batch().samples
        assert abs((samples < PARTS[0]).sum() - 80) <= 1
        assert (ranks[samples] == number).mean() > 0.98


def test_weights_other_than_sizes_keep_buckets_together_over_a_pass(paths):
    dataset = Parts(range(NUM_SAMPLES))
    dataset.part_weights = (1.0, 3.0)
    order = {"num_buckets": 10, "pass_samples": 960}
    played = sampler(paths, order, dataset=dataset, rows=96)
    ranks, start = np.empty(NUM_SAMPLES, int), 0
    for size in PARTS:
        one = np.argsort(RARITY[start : start + size], kind="stable")
        ranks[start + one] = np.arange(size) * 10 // size
        start += size
    for number in range(10):
        samples = played.next_global_batch().samples
        assert (samples < PARTS[0]).sum() == 24
        assert (ranks[samples] == number).mean() > 0.95


@pytest.mark.parametrize("between", ["constant", "linear"])
def test_parts_stay_together_while_their_weights_change(paths, between):
    """Over a pass every part goes through all of its buckets, whatever its weight is when."""
    dataset = Parts(range(NUM_SAMPLES))
    dataset.part_weights = (2.0, 1.0)
    mix = {"weights": [[2, 1], [1, 4]], "at_samples": [0, 480], "between": between}
    played = sampler(paths, {"num_buckets": 10, "pass_samples": 960}, dataset=dataset, mix=mix)
    found = drawn(played, 60)
    ranks, start = np.empty(NUM_SAMPLES, int), 0
    for number, size in enumerate(PARTS):
        one = np.argsort(RARITY[start : start + size], kind="stable")
        ranks[start + one] = np.arange(size) * 10 // size
        of_part = ranks[found[(found >= start) & (found < start + size)]]
        assert (np.diff(of_part) >= 0).all()
        counts = np.bincount(of_part, minlength=10)
        assert np.ptp(counts) <= 1
        first, last = ((2 / 3, 1 / 5), (1 / 3, 4 / 5))[number]
        share = (first if between == "constant" else (first + last) / 2) / 2 + last / 2
        assert abs(counts.sum() - 960 * share) <= 1
        start += size


def test_the_place_in_the_order_is_told(paths):
    played = sampler(paths, ORDERS["saw"])
    percents = [played.next_global_batch().difficulties["rarity"] for _ in range(60)]
    assert percents[0] < 2
    assert max(percents[13:17]) > 95
    assert percents[29] < 8
    again = sampler(paths, ORDERS["saw"])
    assert [again.difficulties(step)["rarity"] for step in range(1, 61)] == percents
    last = sampler(paths, ORDERS["descending"]).next_global_batch()
    assert last.difficulties["rarity"] > 90
    assert last.pool_size == NUM_SAMPLES


def test_a_state_belongs_to_its_order(paths):
    state = sampler(paths, ORDERS["folded"]).state_dict()
    with pytest.raises(ValueError, match=r"order.*saw"):
        sampler(paths, ORDERS["saw"]).load_state_dict(state)
