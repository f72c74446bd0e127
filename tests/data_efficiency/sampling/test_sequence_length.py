import pytest
import torch

from data_efficiency.config import MetricConfig
from data_efficiency.json_section import ConfigError
from data_efficiency.sampling.sequence_length import apply_actions, check_actions, truncate
from data_efficiency.schedule import CustomSchedule


def metric(name, action):
    return MetricConfig(
        name=name,
        difficulty_type="value",
        clustering_type="single_cluster",
        min_difficulty=1,
        max_difficulty=8,
        schedule=CustomSchedule(),
        sequence_length=action,
    )


def test_every_tensor_is_cut_along_the_sequence():
    tokens = torch.arange(24).reshape(3, 8)
    batch = {
        "tokens": tokens,
        "pair": (tokens + 1, [tokens + 2]),
        "mask": torch.ones(3, 1, 8, 8),
        "broadcast_mask": torch.ones(3, 1, 1, 8),
        "features": torch.ones(3, 8, 5),
        "label": torch.ones(3),
        "name": "text",
    }
    cut = truncate(batch, 5)
    assert torch.equal(cut["tokens"], tokens[:, :5])
    assert torch.equal(cut["pair"][0], tokens[:, :5] + 1)
    assert torch.equal(cut["pair"][1][0], tokens[:, :5] + 2)
    shapes = {name: tuple(cut[name].shape) for name in ("mask", "broadcast_mask", "features")}
    assert shapes == {"mask": (3, 1, 5, 5), "broadcast_mask": (3, 1, 1, 5), "features": (3, 5, 5)}
    assert cut["label"].shape == (3,)
    assert cut["name"] == "text"
    assert cut["tokens"].is_contiguous()


@pytest.mark.parametrize("length", [8, 100])
def test_a_length_that_does_not_cut_changes_nothing(length):
    tokens = torch.zeros(2, 8)
    assert truncate(tokens, length) is tokens


def test_only_declared_actions_are_carried_out():
    tokens = torch.zeros(2, 8)
    metrics = (metric("a", "truncate"), metric("b", "user"), metric("c", None))
    assert apply_actions(tokens, metrics, {"a": 6, "b": 3, "c": 2}).shape == (2, 6)
    assert apply_actions(tokens, metrics[1:], {"b": 3, "c": 2}) is tokens


def test_reshaping_is_refused():
    with pytest.raises(ConfigError, match="metric 'r': reshaping rows is not supported"):
        check_actions((metric("r", "reshape"),))
