import pytest

from data_efficiency.config import load_config
from data_efficiency.json_section import ConfigError
from tests.json_sections import curriculum_config, length_metric


def declaring(axes):
    content = curriculum_config({"seqlen_truncate": length_metric()})
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning["sequence_axes"] = axes
    return content


def test_entries_with_a_sequence_are_declared():
    axes = load_config(declaring({"0": 1, "mask": [2, -1]})).data_efficiency.sequence_axes
    assert axes == {"0": (1,), "mask": (2, -1)}
    for wrong in ({}, [1], {"a": "1"}, {"a": []}, {"a": [True]}, {"a": None}):
        with pytest.raises(ConfigError, match="sequence_axes is .* must be an object of entries"):
            load_config(declaring(wrong))


SELECTING = {"clustering_type": "schedule_based", "index_path": "difficulty/rarity"}
SORTING = {"clustering_type": "sorted", "index_path": "difficulty/rarity"}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"attention_window": length_metric(), "sliding_window": length_metric()},
            "both limit what attention looks at",
        ),
        (
            {
                "seqlen_truncate": length_metric(8, 32, constant_tokens=True),
                "other": length_metric(8, 32, sequence_length="truncate"),
            },
            "'seqlen_truncate' and 'other' truncate rows, and constant_tokens follows one",
        ),
        (
            {"seqlen_truncate": length_metric(), "seqlen_reshape": length_metric()},
            "'seqlen_truncate' truncates rows and 'seqlen_reshape' reshapes them",
        ),
        (
            {"rarity": length_metric(**SELECTING), "other": SORTING},
            "'rarity' admits samples by a schedule and 'other' sorts them all",
        ),
        (
            {
                "rarity": length_metric(**SELECTING, window_size=8),
                "other": length_metric(**SELECTING),
            },
            "window_size retires samples of a pool that one metric selects",
        ),
        ({}, "must name at least one metric"),
    ],
)
def test_metrics_that_do_not_go_together_are_refused(metrics, message):
    with pytest.raises(ConfigError, match=message):
        load_config(curriculum_config(metrics))
