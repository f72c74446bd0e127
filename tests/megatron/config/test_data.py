import pytest

from megatron.config import DataConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data_path": ("x",), "seq_length": 0}, "--seq-length is 0"),
        ({"data_path": ("x",), "num_workers": -1}, "--num-workers is -1"),
        ({"data_path": ("x",), "mask_prob": 1.5}, "--mask-prob is 1.5"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)
