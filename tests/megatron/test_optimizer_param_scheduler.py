import pytest

from megatron.arguments import parse_run_config
from megatron.optimizer_param_scheduler import make_learning_rate
from megatron.run_state import model_shape


def learning_rate(**values):
    flags = {
        "data_path": "corpus",
        "seq_length": 32,
        "micro_batch_size": 8,
        "num_layers": 4,
    } | values
    words = [
        word
        for name, value in flags.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    config = parse_run_config("", words)
    return make_learning_rate(config, model_shape(config.model))


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
    rate = learning_rate(**values)
    assert (rate.clock, rate.decay, rate.share) == (clock, decay, share)


def test_a_warm_up_on_another_clock_is_refused():
    with pytest.raises(ValueError, match="decays by iters; give --lr-warmup-iters"):
        learning_rate(train_iters=100, lr_warmup_tokens=5)
    with pytest.raises(ValueError, match="below the decay's end"):
        learning_rate(train_iters=100, lr_warmup_iters=100)
    with pytest.raises(ValueError, match="decays by tokens; give --lr-warmup-tokens"):
        learning_rate(train_tokens=10**6, token_counter="loss", lr_warmup_iters=5)


def test_a_warm_up_in_steps_is_the_tokens_of_those_steps():
    assert learning_rate(train_tokens=10**6, lr_warmup_iters=5).warmup == 5 * 8 * 32
