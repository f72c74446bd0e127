import pytest

from megatron.config import FinetuningConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"lr": -1.0}, "--lr is -1.0"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        FinetuningConfig(**values)
