import numpy as np
import pytest

from data_efficiency import ConfigError, DifficultyIndex
from data_efficiency.config import (
    Curriculum,
    DataEfficiencyConfig,
    LayerDropout,
    RandomLTD,
    TokenSuperposition,
    load_config,
)
from tests.json_sections import length_metric, metric, random_ltd


def test_the_lines_mean_what_the_file_says():
    config = DataEfficiencyConfig.of(
        Curriculum("voc", index="d/voc", start=10, steps=12),
        Curriculum("seqlen", start=8, end=64, steps=12),
        RandomLTD(start=16, end=32, steps=16, layers=[1, 2]),
        seed=7,
        num_epochs=3,
    )
    metrics = {"voc": metric("d/voc"), "seqlen_truncate": length_metric()}
    learning = {"enabled": True, "curriculum_metrics": metrics}
    dropping = random_ltd(4, 16, 32, 16, 16)
    written = {
        "seed": 7,
        "data_sampling": {"num_epochs": 3, "curriculum_learning": learning},
        "data_routing": {"random_ltd": dropping},
    }
    found = config.random_ltd.closed(num_layers=4, mask_name=None)
    expected = load_config({"data_efficiency": written}).data_efficiency
    assert found == expected.random_ltd
    assert config.selections == expected.selections
    assert config.length_plans == expected.length_plans
    assert (config.seed, config.num_epochs) == (7, 3)


def test_the_defaults_are_those_that_were_published():
    (voc,) = DataEfficiencyConfig.of(Curriculum("voc", index="i", start=1, steps=9)).selections
    assert (voc.difficulty_type, voc.max_difficulty) == ("percentile", 100)
    assert voc.schedule.describe() == "from 1 to 100 in 9 steps along a root of degree 2"
    value = Curriculum("voc", index="i", start=1, end=700, steps=9, by="value", root=1)
    (voc,) = DataEfficiencyConfig.of(value).selections
    assert voc.schedule.describe() == "from 1 to 700 in 9 steps"
    reshape = Curriculum("seqlen_reshape", start=8, end=64, steps=9)
    (plan,) = DataEfficiencyConfig.of(reshape).length_plans
    assert (plan.action, plan.schedule.difficulty_step) == ("reshape", 8)


def test_a_path_of_an_index(tmp_path):
    index = DifficultyIndex.write(
        tmp_path / "voc", [1, 2], metric="voc", dataset_identity={"name": "x"}
    )
    config = DataEfficiencyConfig.of(Curriculum("voc", index=index.path, start=1, steps=9))
    assert config.selections[0].index_path == str(tmp_path / "voc")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RandomLTD(start=0, steps=-1),
            "RandomLTD: start is 0: must be .*; steps is -1: must be a whole number",
        ),
        (lambda: RandomLTD(start=2.5, steps=1), "start is 2.5: must be a whole number"),
        (lambda: RandomLTD(start=64, end=32, steps=1), r"start is 64: above end \(32\)"),
        (lambda: Curriculum("voc", start=1, steps=1), r"has no index: .* \(index=\), or pace"),
        (lambda: Curriculum("seqlen", start=1, steps=1, by="value"), "by belongs to a metric"),
        (
            lambda: Curriculum("a", index="i", start=1, steps=1, by="value"),
            "give end=, the largest",
        ),
        (
            lambda: DataEfficiencyConfig.of(RandomLTD(1, 1), RandomLTD(2, 2)),
            r"RandomLTD\(start=2.* is there twice",
        ),
        (
            lambda: DataEfficiencyConfig.of(Curriculum("seqlen", start=8, steps=3, window=2)),
            "window_size is 2, but belongs to a metric whose clustering_type is schedule_based",
        ),
        (
            lambda: DataEfficiencyConfig.of(Curriculum("seqlen", start=8, steps=3, bands=2)),
            "num_bands is 2, but belongs to a metric whose clustering_type is sorted",
        ),
        (lambda: TokenSuperposition(0, "x"), "bag_size is 0: must be .*; steps is 'x': must be"),
        (lambda: LayerDropout(start=50, steps=3, layers=2), "layers is 2: must be a list, such"),
        (lambda: DataEfficiencyConfig.of("seqlen"), "'seqlen' is no part"),
        (
            lambda: DataEfficiencyConfig.of(num_worker=1),
            "num_worker is not a known key.*num_workers",
        ),
    ],
)
def test_what_cannot_be_meant(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_what_cannot_be_said_beside_parts():
    with pytest.raises(
        ConfigError, match=r"curriculum_learning is what Curriculum\(...\) stands for"
    ):
        DataEfficiencyConfig.of(curriculum_learning={"enabled": True})


@pytest.mark.parametrize("wrong", [{"layers": 3}, {"layers": "auto"}, {"always_keep": 0}])
def test_layers_and_positions_are_lists(wrong):
    with pytest.raises(ConfigError, match="must be a list, such as"):
        RandomLTD(start=8, steps=4, **wrong)


def test_percentiles_begin_with_the_first_unless_told():
    left_open, spelled_out = Curriculum("a", index="i", steps=9), Curriculum("a", 1, 9, index="i")
    assert left_open.section() == spelled_out.section()
    with pytest.raises(ConfigError, match="has no start: give start= and steps="):
        Curriculum("a", index="i", steps=9, by="value", end=50)


def test_layers_that_are_no_plain_numbers_are_told_by_their_key():
    for layers in (np.arange(1, 3), [np.arange(1, 3)], ["1"], 3.0):
        with pytest.raises(ConfigError, match=r"layers is|random_ltd_layer_id is"):
            DataEfficiencyConfig.of(RandomLTD(start=8, steps=4, layers=layers))


def test_a_control_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"random_rank is true, but there is no Curriculum"):
        DataEfficiencyConfig.of(RandomLTD(start=8, steps=4), random_rank=True)
    DataEfficiencyConfig.of(RandomLTD(start=8, steps=4), random_rank=False)
