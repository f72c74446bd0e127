"""What an order may say, and what does not go together."""

import pytest

from data_efficiency import ConfigError
from data_efficiency.config import Curriculum, DataEfficiencyConfig, Order, load_config
from tests.json_sections import curriculum_config, length_metric, metric, sorting_metric


def read(order=None, metrics=None, **learning):
    content = curriculum_config(metrics or {"rarity": sorting_metric("d/rarity")})
    section = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    section |= ({} if order is None else {"order": order}) | learning
    return load_config(content).data_efficiency


BANDS = {name: sorting_metric(f"d/{name}", num_bands=2) for name in ("rarity", "length")}
ONE = {"rarity": BANDS["rarity"], "length": sorting_metric("d/length")}


def test_a_metric_that_sorts_has_all_samples_at_once_and_is_played_ascending():
    config = read()
    (selection,) = config.selections
    assert selection.sorts
    assert selection.schedule.describe() == "always 100"
    assert config.order == Order()
    assert read({"kind": "saw", "num_folds": 4}, ONE, random_rank=True).random_rank


def test_lengths_go_beside_an_order():
    metrics = {"rarity": sorting_metric("d/rarity"), "seqlen_truncate": length_metric()}
    config = read({"kind": "descending"}, metrics)
    assert config.metric_names == ("rarity", "seqlen_truncate")


@pytest.mark.parametrize(
    ("order", "metrics", "message"),
    [
        ({}, {"a": metric()}, "order is given, but no metric sorts"),
        ({"kind": "folding"}, None, "'folding': must be one of .* did you mean 'folded'"),
        ({"kind": "folded"}, None, "num_folds is None, but the order folded needs num_folds"),
        ({"num_folds": 3}, None, "num_folds is 3, but the order ascending has no folds"),
        ({"kind": "saw", "num_folds": 1}, None, "num_folds is 1: must be at least 2"),
        ({"kind": "saw", "num_folds": 2**14}, None, "at most 1048576 together"),
        ({"num_buckets": 2**20 + 1}, None, "num_buckets is 1048577: must be at most 1048576"),
        ({"pass_samples": 0}, None, "pass_samples is 0: must be at least 1"),
        ({"kind": "stages"}, None, "stages is None, but the order stages needs them"),
        ({"stages": [["shuffled", 1]]}, None, "but the order ascending has none: remove them"),
        ({"kind": "stages", "stages": []}, None, r"stages is \[\]: must be a list of pairs"),
        ({"kind": "stages", "stages": [["up", 1]]}, None, "pairs of shuffled, ascending, descend"),
        ({"kind": "stages", "stages": [["shuffled", 0]]}, None, "a whole number above 0"),
        ({"kind": "stages", "stages": [["shuffled", 1001]]}, None, "together at most 1000"),
        (
            {"kind": "stages", "stages": [["shuffled", 1], ["ascending", 1]]},
            BANDS,
            "kind is 'stages', but all metrics have num_bands",
        ),
        (
            {"buckets": 3},
            None,
            "buckets is not a known key; the nearest known key is 'num_buckets'",
        ),
        ({"kind": "sequence", "sequence": [0]}, None, "a sequence is of the groups of metrics"),
        ({"kind": "sequence", "sequence": [0, 1]}, BANDS, "each of the groups 0 to 3 once"),
        ({"sequence": [0, 1, 2, 3]}, BANDS, r"\[0, 1, 2, 3\]: remove it \(kind ascending\)"),
        ({"num_buckets": 5}, BANDS, "num_buckets is 5, but all metrics have num_bands"),
        ({"kind": "saw", "num_folds": 2}, BANDS, "kind is 'saw', but all metrics have num_bands"),
        (
            None,
            {name: each | {"num_bands": 300} for name, each in BANDS.items()},
            "make 90000 groups: must be at most 65536",
        ),
        (None, dict(reversed(ONE.items())), "'length' sorts exactly, so that no later one"),
        (
            None,
            {"a": sorting_metric(min_difficulty=3)},
            "min_difficulty is 3, but the metric sorts",
        ),
        (None, {"a": metric(), "b": sorting_metric()}, "'a' admits samples by a schedule and 'b'"),
        (None, {"a": metric(num_bands=3)}, "num_bands is 3, but belongs to a metric whose"),
        (
            None,
            {"a": sorting_metric(sequence_length="truncate")},
            "would change the length of rows",
        ),
        (None, {"a": {"clustering_type": "sorted"}}, "index_path is missing"),
    ],
)
def test_what_does_not_go_together(order, metrics, message):
    with pytest.raises(ConfigError, match=message):
        read(order, metrics)


def test_the_same_in_python():
    order = Order(kind="folded", num_folds=3, num_buckets=10)
    config = DataEfficiencyConfig.of(
        Curriculum("rarity", index="d/rarity", order=order, bands=2),
        Curriculum("length", index="d/length", order=order),
        random_rank=True,
    )
    written = {"kind": "folded", "num_folds": 3, "num_buckets": 10}
    assert config == read(written, ONE, random_rank=True)
    assert DataEfficiencyConfig.of(
        Curriculum("rarity", index="d/rarity", order="descending")
    ) == read({"kind": "descending"})


def test_stages_are_written_as_they_are_read():
    stages = [["shuffled", 7], ["ascending", 3]]
    order = read({"kind": "stages", "stages": stages}).order
    assert order.section() == {"kind": "stages", "stages": stages}
    assert order.describe() == "stages, shuffled 7, ascending 3"
    again = Curriculum("rarity", index="d/rarity", order=order)
    assert DataEfficiencyConfig.of(again).order == order


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Curriculum("a", index="i"), r"has no steps: give steps=, or an order="),
        (lambda: Curriculum("seqlen"), "has no start and no steps: give start= and steps=, or"),
        (lambda: Curriculum("a", index="i", order="saw", start=3), "start belongs to a metric"),
        (lambda: Curriculum("a", order="saw"), "it needs index="),
        (
            lambda: DataEfficiencyConfig.of(
                Curriculum("a", index="i", order="ascending", bands=2),
                Curriculum("b", index="i", order="descending"),
            ),
            r"has the order descending, and a metric before it another",
        ),
    ],
)
def test_what_cannot_be_said_in_python(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
