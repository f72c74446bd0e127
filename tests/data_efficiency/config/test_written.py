import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.config import (
    Curriculum,
    DataEfficiencyConfig,
    RandomLTD,
    load_config,
    section_of,
)
from data_efficiency.schedule import DiscreteSchedule
from tests.data_efficiency.config.test_file import LEGACY, PUBLISHED
from tests.json_sections import curriculum_config, length_metric, metric, random_ltd, sorting_metric

SIZES = st.integers(1, 500)
LENGTHS = st.builds(
    lambda metric, start, more, steps: Curriculum(metric, start=start, steps=steps, end=more),
    st.sampled_from(["seqlen", "seqlen_reshape"]),
    SIZES,
    st.none() | st.integers(500, 900),
    SIZES,
)
SELECTIONS = st.builds(
    lambda number, start, root, steps: Curriculum(
        f"m{number}", index=f"d/m{number}", start=start, root=root, steps=steps
    ),
    st.integers(0, 2),
    st.integers(1, 100),
    st.integers(1, 3),
    SIZES,
)
DROPPING = st.builds(
    lambda start, more, layers: RandomLTD(start, steps=9, end=more, layers=layers),
    SIZES,
    st.none() | st.integers(500, 900),
    st.none() | st.sets(st.integers(0, 9), min_size=1).map(sorted),
)
PARTS = st.tuples(
    st.lists(LENGTHS, max_size=1),
    st.lists(SELECTIONS, max_size=3, unique_by=lambda part: part.metric),
    st.lists(DROPPING, max_size=1),
).map(lambda parts: [part for some in parts for part in some])


def read_again(config):
    """What a file says in which the configuration was written."""
    content = {"data_efficiency": json.loads(json.dumps(section_of(config)))}
    return load_config(content).data_efficiency


@given(PARTS, st.integers(0, 99))
def test_python_to_json_and_back_is_the_same_configuration(parts, seed):
    config = DataEfficiencyConfig.of(*parts, seed=seed, num_workers=2)
    assert read_again(config) == config
    if config.needs_length:
        closed = config.with_length(1000)
        assert read_again(closed) == closed


SORTED = curriculum_config(
    {
        "a": sorting_metric(num_bands=3, trust_order=True),
        "b": sorting_metric(num_bands=2),
        "seqlen_truncate": length_metric(),
    }
)
SORTED["data_efficiency"]["data_sampling"]["curriculum_learning"] |= {
    "order": {"kind": "sequence", "sequence": [5, 0, 1, 2, 3, 4], "pass_samples": 700},
    "random_rank": True,
}
CONTENTS = [
    PUBLISHED,
    SORTED,
    curriculum_config({"voc": metric(window_size=30)}),
    {"curriculum_learning": LEGACY},
    {"data_efficiency": {"data_routing": {"random_ltd": random_ltd(always_keep=[0])}}},
    curriculum_config({"voc": metric(trust_order=True), "seqlen_truncate": length_metric()}),
    curriculum_config({"voc": metric(sequence_length="truncate", length_multiple=4, least=1)}),
    curriculum_config({"a": metric(index_to_metric_path="v", shuffle_index="s.npy")}),
    curriculum_config({"mine": length_metric()}, num_epochs=3, pin_memory=True),
    curriculum_config(
        {
            "stages": metric(
                schedule_type="fixed_discrete",
                schedule_config={"difficulty": [10, 100], "max_step": [5]},
            )
        }
    ),
    curriculum_config({"own": metric(schedule_type="custom", schedule_config={})}),
]


@pytest.mark.parametrize("content", CONTENTS)
def test_every_file_is_written_as_it_was_meant(content):
    config = load_config(content).data_efficiency
    assert read_again(config) == config


def test_axes_clusters_random_rank_and_the_learning_rate_are_written():
    content = copy.deepcopy(curriculum_config({"voc": metric()}, num_workers=3))
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning |= {"random_rank": True, "data_cluster_path": "c", "sequence_axes": {"a": [1, 2]}}
    rate = {"enabled": True, "total_layer_tokens": 9, "warmup_layer_tokens": 2}
    dropping = random_ltd(layer_token_lr_schedule=rate)
    content["data_efficiency"]["data_routing"] = {"random_ltd": dropping}
    config = load_config(content).data_efficiency
    assert config.random_rank
    assert config.random_ltd.layer_token_lr is not None
    assert read_again(config) == config


def test_a_schedule_without_a_name_has_no_file():
    class Own(DiscreteSchedule):
        """Of nobody."""

    own = Own(difficulties=(1, 2), max_steps=(3,), max_difficulty=2)
    config = load_config(curriculum_config({"voc": metric()})).data_efficiency
    (selection,) = config.selections
    object.__setattr__(selection, "schedule", own)
    with pytest.raises(ValueError, match="Own has no name in the JSON file: register_schedule"):
        section_of(config)
