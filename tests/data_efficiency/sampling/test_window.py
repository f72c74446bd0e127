"""A window's pool holds exactly the samples within its two ends, at every step."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_efficiency.config import load_config
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.random_rank import random_rank
from data_efficiency.sampling.sampler import CurriculumSampler
from data_efficiency.schedule import growth
from tests.data_efficiency.sampling.resumed_batches import resumed_batches
from tests.json_sections import curriculum_config, metric

NUM_SAMPLES = 1000
VALUES = np.random.default_rng(3).integers(1, 101, NUM_SAMPLES)


class Parts(list):
    """Samples of two parts that are drawn three to one."""

    part_sizes, part_weights = (500, 500), (3.0, 1.0)
    identity = describe_dataset(range(NUM_SAMPLES))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "rarity"
    identity = describe_dataset(range(NUM_SAMPLES))
    DifficultyIndex.write(path, VALUES, metric="rarity", dataset_identity=identity)
    return path


def sampler(
    index, kind="value", size=20, dataset=None, *, control=False, rows=8, ranks=(0, 1), **changes
):
    line = {
        "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": 60, "difficulty_step": 1},
    }
    line |= {} if size is None else {"window_size": size}
    paced = metric(index, difficulty_type=kind, **{**line, **changes})
    content = curriculum_config({"rarity": paced})
    content["data_efficiency"]["data_sampling"]["curriculum_learning"]["random_rank"] = control
    return CurriculumSampler(
        dataset or range(NUM_SAMPLES),
        load_config(content).data_efficiency,
        micro_batch_size=rows,
        data_parallel_rank=ranks[0],
        data_parallel_size=ranks[1],
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["value", "percentile"]), size=st.integers(5, 120))
def test_the_pool_is_what_lies_between_its_ends(index, kind, size):
    drawn = sampler(index, kind, size)
    ranks = np.empty(NUM_SAMPLES)
    ranks[np.argsort(VALUES, kind="stable")] = np.arange(NUM_SAMPLES)
    heights = VALUES if kind == "value" else ranks // (NUM_SAMPLES // 100) + 1
    for _ in range(70):
        batch = drawn.next_global_batch()
        high = batch.difficulties["rarity"]
        within = (heights <= high) & (heights > high - size)
        assert within[batch.samples].all()
        assert batch.pool_size == within.sum()


def test_growth_of_the_pool_tells_of_both_ends(index):
    drawn = sampler(index)
    steps, sizes = drawn.pool_growth(70)
    sizes_at = sizes[np.searchsorted(steps, np.arange(1, 71), "right") - 1]
    assert sizes_at.tolist() == [drawn.pool_size(step) for step in range(1, 71)]
    assert (np.diff(sizes) < 0).any()


def test_a_window_as_wide_as_the_schedule_draws_as_without_one(index):
    wide, none = sampler(index, size=100), sampler(index, size=None)
    for _ in range(70):
        np.testing.assert_array_equal(
            wide.next_global_batch().samples, none.next_global_batch().samples
        )


def test_no_sample_twice_within_a_pass_and_a_resume_is_exact(index):
    drawn = sampler(index, dataset=Parts(range(NUM_SAMPLES)))
    batches = []
    for step in range(70):
        if step == 33:
            state = json.loads(json.dumps(drawn.state_dict()))
            drawn = sampler(index, dataset=Parts(range(NUM_SAMPLES)))
            drawn.load_state_dict(state)
        batches.append(drawn.next_global_batch())
    straight = sampler(index, dataset=Parts(range(NUM_SAMPLES)))
    for batch in batches:
        np.testing.assert_array_equal(batch.samples, straight.next_global_batch().samples)
        assert abs((batch.samples < 500).sum() - 6) <= 1
    seen = [
        pair for b in batches for pair in zip(b.samples.tolist(), b.visits.tolist(), strict=True)
    ]
    assert len(set(seen)) == len(seen)


def test_bounds_that_lie_after_the_last_admission_retire_too(index):
    """The schedule rises on when all samples are admitted: those at the lower end still go."""
    drawn = sampler(index, size=60, max_difficulty=150)
    assert drawn.pool_size(60) == (VALUES > 90).sum()


def test_refusals(index):
    with pytest.raises(ConfigError, match="window_size is 20, but belongs to a metric"):
        sampler(index, clustering_type="single_cluster", sequence_length="user")
    with pytest.raises(ConfigError, match="window_size and the schedule"):
        sampler(index, schedule_type="custom", schedule_config={})
    with pytest.raises(ValueError, match=r"accepts no sample at step \d+.*larger window_size"):
        sampler(index, size=10, max_difficulty=150)
    two = {name: metric(index, window_size=5) for name in ("rarity", "length")}
    with pytest.raises(ConfigError, match="'rarity' and 'length' select; keep one"):
        load_config(curriculum_config(two))


def test_rises_are_those_of_the_schedule(index):
    drawn = sampler(index)
    schedule = drawn.config.selections[0].schedule
    assert drawn.pool_growth(70)[0].tolist() == [
        step for step, _ in growth(schedule, 0, None, None)
    ]


@pytest.mark.parametrize("blended", [False, True])
def test_the_control_has_the_same_pacing(index, blended):
    """Where samples are retired, as where they are only admitted."""
    dataset, sizes = (Parts(range(NUM_SAMPLES)), Parts.part_sizes) if blended else (None, None)
    first, second = (sampler(index, dataset=dataset, control=on) for on in (False, True))
    for _ in range(70):
        ordered, random = first.next_global_batch(), second.next_global_batch()
        assert (random.pool_size, random.difficulties) == (ordered.pool_size, ordered.difficulties)
        expected = random_rank(ordered.samples, 1234, sizes or [NUM_SAMPLES])
        np.testing.assert_array_equal(random.samples, expected)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.full)])
@pytest.mark.parametrize("control", [False, True])
def test_a_resume_on_other_ranks_and_workers_is_as_no_interruption(index, control, workers):
    straight = sampler(index, control=control)
    expected = [straight.next_global_batch().samples for _ in range(60)]
    found = resumed_batches(
        lambda rank, ranks: sampler(index, control=control, rows=8 // ranks, ranks=(rank, ranks)),
        NUM_SAMPLES,
        [(1, workers, 13), (2, workers, 30), (4, workers, 17)],
    )
    np.testing.assert_array_equal(found, expected)
