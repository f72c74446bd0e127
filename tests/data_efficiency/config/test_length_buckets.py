"""Names stand for numbers; what cannot be, or contradicts the data or another section, is told."""

import pytest

from data_efficiency import ConfigError, Curriculum
from data_efficiency.config import DataEfficiencyConfig, LengthBuckets, section_of
from data_efficiency.config.length_buckets import read_length_buckets
from data_efficiency.json_section import Section
from data_efficiency.sampling.bucketed_rows import with_buckets_of

MIX = {"weights": [[1.0]], "at_samples": [0]}
BATCHES = {"min_value": 4, "max_value": 4, "schedule_type": "fixed_linear"}
BATCHES["schedule_config"] = {"total_curriculum_step": 1, "difficulty_step": 1}
FEEDBACK = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}


def read(**keys):
    return read_length_buckets(Section(keys, "length_buckets"))


@pytest.mark.parametrize(
    ("odds", "numbers"),
    [
        ("uniform", (1, 1, 1)),
        ("grow_linear", (3, 2, 1)),
        ("grow_p2", (4, 2, 1)),
        ([1, 5, 2], (1, 5, 2)),
    ],
)
def test_odds_by_name_are_those_published(odds, numbers):
    assert read(odds=odds, lengths=[2, 4, 8]).odds_of_buckets() == numbers


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ("natural", (0.5, 0, 0.5)),
        ("uniform", (0.5, 0, 0.5)),
        ([3, 0, 1], (0.75, 0, 0.25)),
    ],
)
def test_shares_are_of_the_rows_that_are_there(shares, expected):
    assert (
        read(token_shares=shares, lengths=[2, 4, 8], sizes=[4, 0, 1]).shares_of_buckets()
        == expected
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"odds": "shrink"},
            "odds is 'shrink': must be one of uniform, grow_linear, grow_p2, or a list of numbers above 0",
        ),
        ({"odds": [1, 0]}, r"odds is \[1, 0\]: must be"),
        ({"odds": [1, float("inf")]}, "odds is"),
        ({"odds": [1, 10**400]}, "odds is"),
        ({"token_shares": [1e308, 1e308]}, "token_shares is"),
        ({"token_shares": [0, 0]}, "token_shares is .* of at least 0, not all 0"),
        ({"token_shares": [1, True]}, "token_shares is"),
        ({"lengths": [2, 3, 8]}, "lengths is .* each divide the last one"),
        ({"lengths": [4, 2]}, "lengths is .* must ascend"),
        (
            {"lengths": [2, 4], "odds": [1, 2, 3]},
            "lengths has 2, odds has 3: must be a number for each",
        ),
        ({"sizes": [2, -4]}, "sizes is .* of at least 0"),
        ({"lengths": 8}, "lengths is 8: must be a list"),
        ({"num_cycles": 5, "pass_steps": 4}, r"num_cycles is 5: must be at most pass_steps \(4\)"),
        ({"cycles": 5}, "the nearest known key is 'num_cycles'"),
    ],
)
def test_what_cannot_be_is_told(keys, message):
    with pytest.raises(ConfigError, match=message):
        read(**keys)


def test_shares_of_unknown_rows_and_of_none_are_refused():
    with pytest.raises(ConfigError, match="how many rows each bucket has is not known"):
        read(lengths=[2, 4]).shares_of_buckets()
    with pytest.raises(ConfigError, match="no rows of 4 tokens: give bucket 1 the share 0"):
        read(lengths=[2, 4], sizes=[3, 0], token_shares=[1, 1]).shares_of_buckets()


@pytest.mark.parametrize(
    ("parts", "settings", "named"),
    [
        ([], {"mix": MIX}, "mix"),
        ([], {"feedback": FEEDBACK}, "feedback"),
        ([], {"batch_size": BATCHES}, "batch_size"),
        ([Curriculum("seqlen", start=2, end=8, steps=4)], {}, "metric 'seqlen_truncate'"),
        ([Curriculum("seqlen_reshape", start=2, steps=4)], {}, "metric 'seqlen_reshape'"),
    ],
)
def test_what_says_lengths_or_rows_too_is_refused(parts, settings, named):
    with pytest.raises(ConfigError, match=f"how many they are, and so does {named}: remove one"):
        DataEfficiencyConfig.of(*parts, length_buckets={}, **settings)


def test_it_is_written_as_it_is_read():
    section = {"odds": [2, 1], "token_shares": "uniform", "num_cycles": 3, "lengths": [4, 8]}
    config = DataEfficiencyConfig.of(length_buckets=section)
    written = section_of(config)
    assert written["data_sampling"]["length_buckets"] == section
    assert written["data_sampling"]["enabled"]
    assert config.length_buckets == LengthBuckets(
        odds=(2.0, 1.0), token_shares="uniform", num_cycles=3, lengths=(4, 8)
    )


class Rows:
    """A dataset whose rows have two lengths."""

    part_sizes, part_lengths = (3, 2), (4, 8)

    def __len__(self):
        return 5


class Plain:
    def __len__(self):
        return 5


def test_the_dataset_and_the_section_agree():
    config = DataEfficiencyConfig.of(length_buckets={})
    closed = with_buckets_of(config, Rows()).length_buckets
    assert (closed.lengths, closed.sizes) == ((4, 8), (3, 2))
    with pytest.raises(
        ConfigError, match=r"lengths is \[2, 8\], but those of the dataset are \[4, 8\]"
    ):
        with_buckets_of(DataEfficiencyConfig.of(length_buckets={"lengths": [2, 8]}), Rows())
    with pytest.raises(
        ConfigError, match=r"the dataset \(Plain\) does not say what its lengths are"
    ):
        with_buckets_of(config, Plain())
    with pytest.raises(
        ConfigError, match=r"rows of the dataset \(Rows\) have 2 lengths, which no batch may mix"
    ):
        with_buckets_of(DataEfficiencyConfig(), Rows())
    assert with_buckets_of(DataEfficiencyConfig(), Plain()) == DataEfficiencyConfig()
