import pytest

from megatron.config import PretrainingLoggingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"log_interval": 0}, "--log-interval is 0"),
        ({"sample_interval": 0}, "--sample-interval is 0"),
        ({"sample_tokens": 0}, "--sample-tokens is 0"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        PretrainingLoggingConfig(**values)
