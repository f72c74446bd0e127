import pytest

from data_efficiency import ConfigError
from megatron.config import Stage, read_stages

HALVES = ({"share": 0.5}, {"share": 0.5})


def test_what_is_left_out_is_whole():
    first, second = read_stages([HALVES[0] | {"seq_length": 64}, HALVES[1]], "stages")
    assert (first.seq_length, second) == (64, Stage(share=0.5))
    assert second.lr_factor == 1


def test_shares_are_decimals():
    stages = [{"share": share} for share in (0.1, 0.2, 0.7)]
    assert [stage.share for stage in read_stages(stages, "stages")] == [0.1, 0.2, 0.7]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"share": 1.0}], "list of two tables or more"),
        ({"share": 1.0}, "list of two tables or more"),
        ([{"share": 0.5}, {"share": 0.6}], r"shares are \[0.5, 0.6\]: together they must be 1"),
        ([{"share": 0}, {"share": 1}], r"stages\[0\].share is 0.0: must be above 0"),
        ([{}, {"share": 0.5}], r"stages\[0\].share is missing"),
        ([{"share": 0.5, "windows": 4}, {"share": 0.5}], r"stages\[0\].windows is not a known key"),
        ([{"share": 0.5, "kept_rows": 101}, {"share": 0.5}], "must be at most 100 percent"),
        ([{"share": 0.5, "lr_factor": 0}, {"share": 0.5}], "lr_factor is 0.0: must be above 0"),
        ([{"share": 0.5, "mix": [0, 0]}, {"share": 0.5}], "list of weights, not all 0"),
        ([{"share": 0.5, "mix": [1, 2]}, {"share": 0.5}], r"stages\[1\].mix is not given"),
        (
            [{"share": 0.5, "mix": [1], "order": "ascending"}, {"share": 0.5, "mix": [2]}],
            "an order and a mix",
        ),
        ([{"share": 0.5}, {"share": 0.5, "pool": 50}], r"pools are \[100, 50\]"),
        ([{"share": 0.5, "order": "up"}, {"share": 0.5}], "must be one of shuffled, ascending"),
    ],
)
def test_what_cannot_be_is_refused(content, told):
    with pytest.raises(ConfigError, match=told):
        read_stages(content, "stages")
