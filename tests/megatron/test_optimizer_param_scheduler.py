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


@pytest.mark.parametrize(
    ("values", "anneal"),
    [
        ({"train_iters": 100}, 10),
        ({"train_iters": 100, "lr_wsd_decay_iters": 30}, 30),
        ({"train_samples": 800, "lr_wsd_decay_samples": 8}, 8),
        ({"train_tokens": 9000, "lr_wsd_decay_tokens": 70}, 70),
        ({"train_iters": 5}, 1),
    ],
)
def test_wsd_decays_over_what_is_given_or_a_tenth(values, anneal):
    rate = learning_rate(lr_decay_style="WSD", lr_wsd_decay_style="cosine", **values)
    assert (rate.style, rate.anneal, rate.anneal_style) == ("WSD", anneal, "cosine")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_decay_style": "WSD", "lr_wsd_decay_tokens": 5}, "give --lr-wsd-decay-iters"),
        ({"lr_decay_style": "WSD", "lr_wsd_decay_iters": 99}, r"with the warm-up \(2\) must be at"),
        ({"lr_wsd_decay_iters": 5}, "--lr-decay-style is cosine: take WSD"),
    ],
)
def test_a_decay_of_wsd_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        learning_rate(train_iters=100, lr_warmup_iters=2, **values)
