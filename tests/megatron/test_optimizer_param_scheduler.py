import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.config import TrainingConfig
from megatron.optimizer_param_scheduler import LearningRate, make_learning_rate


def make(style, **values):
    settings = {
        "peak": 1.0,
        "minimum": 0.1,
        "clock": "iters",
        "warmup": 10,
        "decay": 110,
        "share": 1,
    }
    return LearningRate(style=style, **(settings | values))


def test_warm_up_is_linear_and_the_first_step_learns():
    rate = make("cosine")
    assert [rate.at(step) for step in range(10)] == [pytest.approx((k + 1) / 10) for k in range(10)]


@pytest.mark.parametrize(
    ("style", "middle", "end"),
    [
        ("linear", 0.55, 0.1),
        ("cosine", 0.55, 0.1),
        ("constant", 1.0, 1.0),
        ("inverse-square-root", math.sqrt(10 / 60), 0.1),
    ],
)
def test_closed_forms(style, middle, end):
    rate = make(style)
    assert rate.at(60) == pytest.approx(middle)
    assert rate.at(110) == pytest.approx(end)
    assert rate.at(10_000) == pytest.approx(end)


@given(
    st.sampled_from(["linear", "cosine", "constant", "inverse-square-root"]),
    st.integers(0, 50),
    st.integers(1, 100),
)
def test_within_bounds_and_never_rising_after_the_warm_up(style, warmup, more):
    rate = make(style, warmup=warmup, decay=warmup + more)
    values = [rate.at(step) for step in range(200)]
    assert max(values) <= 1.0
    assert min(values[warmup:]) >= 0.1 - 1e-12
    after = values[max(0, warmup - 1) :]
    assert all(left >= right - 1e-12 for left, right in zip(after, after[1:], strict=False))


def training(**values):
    return TrainingConfig(micro_batch_size=8, **values)


@pytest.mark.parametrize(
    ("values", "clock", "decay", "share"),
    [
        ({"train_iters": 100}, "iters", 100, 1),
        ({"train_samples": 800}, "samples", 800, 8),
        ({"train_tokens": 9000, "train_iters": 5}, "tokens", 9000, 8 * 32),
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
