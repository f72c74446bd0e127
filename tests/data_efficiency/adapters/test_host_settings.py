import pytest

from data_efficiency import ConfigError
from data_efficiency.adapters.host_settings import (
    HostSettings,
    refuse_disagreement,
    refuse_what_needs_our_step,
)
from data_efficiency.config import load_config

HOST = HostSettings(
    host="the host",
    train_micro_batch_size_per_gpu=2,
    gradient_accumulation_steps=3,
    num_workers=1,
    gradient_clipping=1.0,
    names={"num_workers": "workers"},
)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"train_batch_size": 24, "gradient_accumulation_steps": "auto"},
        {"train_micro_batch_size_per_gpu": 2, "gradient_clipping": 1.0, "steps_per_print": 10},
        {"zero_optimization": {"stage": 0}, "fp16": {"enabled": False}},
    ],
)
def test_equal_settings_and_those_left_to_the_host_pass(content):
    refuse_disagreement(load_config(content), HOST, 4)


def test_all_differences_are_named_at_once():
    sampling = {"num_workers": 4}
    content = {
        "train_batch_size": 8,
        "gradient_clipping": 0.5,
        "optimizer": {"type": "AdamW"},
        "data_efficiency": {"data_sampling": sampling},
    }
    with pytest.raises(ValueError, match="make them equal") as caught:
        refuse_disagreement(load_config(content), HOST, 4)
    text = str(caught.value)
    assert "train_batch_size is 8 in the file and 24 for the host (2 x 3" in text
    assert "gradient_clipping is 0.5 in the file and 1.0 for the host" in text
    assert "num_workers is 4 in the file and 1 for the host (workers)" in text
    assert "optimizer is in the file" in text


def test_clipping_that_the_host_does_not_tell_is_not_compared():
    settings = HostSettings(host="a loop", train_micro_batch_size_per_gpu=2)
    refuse_disagreement(load_config({"gradient_clipping": 0.5}), settings, 1)


GROWING = {
    "min_value": 4,
    "max_value": 8,
    "schedule_type": "fixed_discrete",
    "schedule_config": {"difficulty": [4, 8], "max_step": [7]},
}
FEEDBACK = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 2, "delay_steps": 1}


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({}, None),
        ({"batch_size": GROWING}, "batch_size changes the samples of a step, which the host"),
        ({"feedback": FEEDBACK}, "feedback follows the losses of rows, which the host does not"),
    ],
)
def test_what_only_our_step_carries_out_is_refused(sampling, message):
    config = load_config({"data_efficiency": {"data_sampling": sampling}}).data_efficiency
    if message is None:
        refuse_what_needs_our_step(config, "the host")
        return
    with pytest.raises(ConfigError, match=message):
        refuse_what_needs_our_step(config, "the host")
