import pytest

from megatron.config import TrainingConfig
from megatron.optimizer_param_scheduler import make_learning_rate


def training(**values):
    return TrainingConfig(micro_batch_size=8, **values)


@pytest.mark.parametrize(
    ("values", "clock", "decay", "share"),
    [
        ({"train_iters": 100}, "steps", 100, 1),
        ({"train_samples": 800}, "samples", 800, 8),
        ({"train_tokens": 9000, "train_iters": 5}, "effective", 9000, 8 * 32),
        ({"train_iters": 100, "lr_decay_samples": 700}, "samples", 700, 8),
    ],
)
def test_the_clock_is_that_of_the_decay_or_the_training(values, clock, decay, share):
    rate = make_learning_rate(training(**values), seq_length=32)
    assert (rate.clock, rate.decay, rate.share) == (clock, decay, share)


def test_a_warm_up_on_another_clock_is_refused():
    with pytest.raises(ValueError, match="decays by iters; give --lr-warmup-iters"):
        make_learning_rate(training(train_iters=100, lr_warmup_tokens=5), 32)
    with pytest.raises(ValueError, match="below the decay's end"):
        make_learning_rate(training(train_iters=100, lr_warmup_iters=100), 32)
