import pytest

from megatron.config import TrainingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give --train-iters"),
        ({"train_iters": 1, "lr_decay_iters": 5, "lr_decay_tokens": 5}, "give one of"),
        ({"train_iters": 1, "min_lr": 1.0}, "--min-lr is 1.0"),
        ({"train_iters": 1, "eval_interval": 0}, "--eval-interval is 0"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**values)
