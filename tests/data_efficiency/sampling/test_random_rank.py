"""The control draws as the curriculum does, over a random order: what is compared is the order alone."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.config import load_config
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.random_rank import random_rank
from data_efficiency.sampling.sampler import CurriculumSampler
from tests.json_sections import curriculum_config, length_metric, metric

NUM_SAMPLES = 1000
VALUES = np.random.default_rng(1).integers(1, 101, NUM_SAMPLES)


class Parts(list):
    """Samples of two parts that are drawn half and half."""

    part_sizes, part_weights = (600, 400), (1.0, 1.0)
    identity = describe_dataset(range(NUM_SAMPLES))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "rarity"
    identity = describe_dataset(range(NUM_SAMPLES))
    DifficultyIndex.write(path, VALUES, metric="rarity", dataset_identity=identity)
    return path


def sampler(index, *, control, dataset=None, seed=5):
    line = {
        "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": 60, "difficulty_step": 1},
    }
    content = curriculum_config({"rarity": metric(index, difficulty_type="value", **line)})
    content["data_efficiency"]["seed"] = seed
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning["random_rank"] = control
    config = load_config(content).data_efficiency
    return CurriculumSampler(dataset or range(NUM_SAMPLES), config, micro_batch_size=10)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(0, 2**40))
def test_a_permutation_of_each_part(part_sizes, seed):
    found = random_rank(np.arange(sum(part_sizes)), seed, part_sizes)
    start = 0
    for size in part_sizes:
        assert sorted(found[start : start + size]) == [*range(start, start + size)]
        start += size


def test_same_pacing_other_samples(index):
    curriculum, control = (sampler(index, control=on) for on in (False, True))
    for _ in range(79):
        ordered, random = curriculum.next_global_batch(), control.next_global_batch()
        assert random.pool_size == ordered.pool_size
        assert random.difficulties == ordered.difficulties
        # The batches are each other's images under one permutation, drawn from the seed.
        np.testing.assert_array_equal(
            random.samples, random_rank(ordered.samples, 5, [NUM_SAMPLES])
        )


def test_early_samples_have_any_difficulty(index):
    """Of the curriculum's early samples none is difficult; of the control's as many as of all."""
    control = sampler(index, control=True)
    early = np.concatenate([control.next_global_batch().samples for _ in range(20)])
    limit = max(control.difficulties(20).values())
    assert limit < 50
    above = np.greater(VALUES, limit)
    assert above[early].mean() == pytest.approx(above.mean(), abs=0.15)


def test_every_seed_has_its_own_order(index):
    first, second = (sampler(index, control=True, seed=seed) for seed in (5, 6))
    pools = [
        {*np.concatenate([each.next_global_batch().samples for _ in range(3)]).tolist()}
        for each in (first, second)
    ]
    assert pools[0] != pools[1]


def test_a_blend_keeps_its_parts(index):
    parts = Parts(range(NUM_SAMPLES))
    curriculum, control = (sampler(index, control=on, dataset=parts) for on in (False, True))
    for _ in range(70):
        ordered, random = (each.next_global_batch().samples for each in (curriculum, control))
        np.testing.assert_array_equal(ordered < 600, random < 600)
    assert not np.array_equal(ordered, random)


def test_a_state_belongs_to_one_of_the_two(index):
    state = json.loads(json.dumps(sampler(index, control=True).state_dict()))
    sampler(index, control=True).load_state_dict(state)
    with pytest.raises(ValueError, match="random_rank: expected True, found None"):
        sampler(index, control=False).load_state_dict(state)


def test_nothing_to_replace():
    content = curriculum_config({"seqlen_truncate": length_metric(steps=30)})
    content["data_efficiency"]["data_sampling"]["curriculum_learning"]["random_rank"] = True
    with pytest.raises(ConfigError, match="random_rank is true, but no metric selects samples"):
        load_config(content)
