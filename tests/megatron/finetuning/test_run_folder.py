from dataclasses import replace

import pytest

from megatron.finetuning.run_folder import is_finished, saved_run
from tests.megatron.finetuning.points import Points, config_of, run_of, train


def test_a_finished_run_is_known_by_its_settings_and_data(tmp_path):
    config, identity = config_of(tmp_path), Points.identity
    assert not is_finished(config, identity)
    train(run_of(config))
    assert is_finished(config, identity)
    with pytest.raises(ValueError, match="of another run: its data_identity is .*; name another"):
        is_finished(config, {"n": 3})
    with pytest.raises(ValueError, match=r"its lr is 0\.05, here 0\.1"):
        is_finished(config_of(tmp_path, lr=0.1), identity)


@pytest.mark.parametrize(
    ("training", "checkpoint", "same"),
    [
        ({"deepspeed": True}, {}, True),
        ({"exit_duration_in_mins": 3.0}, {}, True),
        ({}, {"save_interval": 3}, True),
        ({"lr": 0.5}, {}, False),
        ({"eval_interval": 3}, {}, False),
        ({"bf16": True}, {}, False),
    ],
)
def test_what_makes_a_run_another(tmp_path, training, checkpoint, same):
    config = config_of(tmp_path, **training)
    other = replace(config, checkpoint=replace(config.checkpoint, **checkpoint))
    settings = [saved_run(one, {}).settings for one in (config_of(tmp_path), other)]
    assert (settings[0] == settings[1]) == same
