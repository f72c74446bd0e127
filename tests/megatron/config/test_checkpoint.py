import pytest

from megatron.config import CheckpointConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"save_interval": 0}, "--save-interval is 0"),
        ({"keep_last": -1}, "--keep-last is -1"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        CheckpointConfig(**values)
