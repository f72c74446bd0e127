import pytest

from data_efficiency.adapters.host_settings import HostSettings, refuse_disagreement
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
