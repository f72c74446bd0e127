"""One step of the PyTorch engine in one process; several ranks are in test_two_ranks.py."""

import math

import pytest
import torch
from torch.nn import functional

from data_efficiency import ConfigError, LearningRate, ModelShape, NonFiniteError
from data_efficiency.engine.step import MAX_SKIPPED_UPDATES
from data_efficiency.engine.whole_tensor import gather_all
from tests.data_efficiency.engine.tiny_engine import (
    LENGTH,
    batches,
    loss_sums,
    make_engine,
    take_step,
)


def weights(engine):
    state = gather_all([*engine.whole_weights(), *engine.whole_optimizer_state()])
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_same(left, right):
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def test_a_step_counts_and_tells():
    engine = make_engine()
    result = take_step(engine, agree=(3, 0))
    assert result.counters == engine.counters
    assert vars(result.counters) == {
        "steps": 1,
        "consumed_samples": 8,
        "corpus_tokens": 8 * LENGTH,
        "loss_tokens": 8 * LENGTH,
        "layer_tokens": 8 * LENGTH,
        "flops": 0,
    }
    lengths = (result.sequence_length, result.kept_length, result.actual_seq_length)
    assert lengths == (LENGTH, None, LENGTH)
    assert result.agreed == (3, 0)
    assert result.loss == result.losses["loss"] > 0
    assert (result.learning_rate, result.skipped) == (0.01, False)
    assert result.grad_norm == engine.get_global_grad_norm() > 0


def test_layers_and_operations_are_counted_where_the_shape_is_told():
    shape = ModelShape(
        num_layers=3,
        hidden_size=8,
        query_size=0,
        key_value_size=0,
        ffn_size=8,
        num_ffn_matrices=1,
        vocab_size=16,
    )
    counters = take_step(make_engine(model_shape=shape)).counters
    assert counters.layer_tokens == 3 * 8 * LENGTH
    assert counters.flops == 3 * 8 * LENGTH * (3 * 2 * 8 * 8 + 2 * 8 * 16)


def test_the_rate_follows_the_counter_and_survives_a_resume():
    rate = LearningRate(
        peak=1.0, minimum=0.0, style="linear", clock="corpus", warmup=0, decay=480, share=0
    )
    engine = make_engine()
    engine.follow_learning_rate(rate)
    rates = [take_step(engine, seed).learning_rate for seed in range(3)]
    assert rates == pytest.approx([1.0, 0.9, 0.8])
    resumed = make_engine()
    resumed.follow_learning_rate(rate)
    resumed.load_progress_state(engine.progress_state())
    assert take_step(resumed).learning_rate == pytest.approx(0.7)
    with pytest.raises(ValueError, match="has a learning-rate schedule already"):
        resumed.follow_learning_rate(rate)
    scheduled = make_engine()
    scheduled.lr_scheduler = object()
    with pytest.raises(ValueError, match="has a learning-rate schedule already"):
        scheduled.follow_learning_rate(rate)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("step", [0, 2])
def test_one_gradient_element_that_is_not_finite_leaves_everything_as_it_was(value, step):
    engine, unbroken = make_engine(), make_engine()
    for seed in range(step):
        take_step(engine, seed)
        take_step(unbroken, seed)

    def break_one(gradient):
        broken = gradient.clone()
        broken[1, 2] = value
        return broken

    handle = engine.module.layers[1].dense.weight.register_hook(break_one)
    with pytest.raises(NonFiniteError, match=f"step {step + 1}: the gradient's norm is"):
        take_step(engine, step)
    handle.remove()
    assert engine.counters == unbroken.counters
    assert engine.progress_state() == unbroken.progress_state()
    assert_same(weights(engine), weights(unbroken))
    # And it goes on as if nothing had been.
    assert take_step(engine, step).loss == take_step(unbroken, step).loss
    assert_same(weights(engine), weights(unbroken))


def test_a_loss_that_is_not_finite_is_refused_by_its_name():
    engine = make_engine()
    before = weights(engine)

    def broken(tokens):
        good = loss_sums(engine)(tokens)
        return {"good": good, "bad": good.detach() * math.inf}

    terms = {"good": 4, "bad": 4}
    with pytest.raises(
        NonFiniteError, match="step 1: the loss 'bad' is inf; the step was not taken"
    ):
        engine.train_step(batches(), broken, lambda tokens: terms)
    assert_same(weights(engine), before)
    assert engine.counters.steps == 0


def test_a_constant_float16_scale_that_never_fits_ends_the_training():
    engine = make_engine(fp16={"enabled": True, "loss_scale": 65536.0})
    with torch.no_grad():
        engine.module.scores.weight.fill_(math.nan)
    for _ in range(MAX_SKIPPED_UPDATES - 1):
        assert take_step(engine).skipped
    with pytest.raises(NonFiniteError, match=f"gradients of {MAX_SKIPPED_UPDATES} steps in a row"):
        take_step(engine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batches": batches(count=1)}, "got 1 micro-batches: a step of this process has 2"),
        ({"num_terms": lambda tokens: {"other": 4}}, r"gives \['loss'\], num_terms \['other'\]"),
        (
            {"loss_sums": lambda tokens: torch.zeros((), requires_grad=True)},
            "did not call the engine",
        ),
    ],
)
def test_calls_that_do_not_fit_together(change, message):
    engine = make_engine()
    call = {"micro_batches": batches(), "loss_sums": loss_sums(engine), "num_terms": torch.numel}
    with pytest.raises(ValueError, match=message):
        engine.train_step(**call | change)


class Numbered:
    """Rows of tokens, different ones."""

    def __len__(self):
        return 400

    def __getitem__(self, number):
        return (torch.arange(LENGTH) * (number + 1)) % 16


GROWTH = {
    "min_value": 4,
    "max_value": 12,
    "counter": "samples",
    "schedule_type": "fixed_discrete",
    "schedule_config": {"difficulty": [4, 8, 12], "max_step": [7, 23]},
}


def growing_engine(**batches):
    sampling = {"batch_size": GROWTH | batches}
    section = {"seed": 3, "data_sampling": sampling}
    return make_engine(data_efficiency=section, training_data=Numbered())


def test_a_step_has_the_micro_batches_and_the_rate_of_its_batch():
    """In a loop of one's own, by train_step or by backward and step, and after a stop."""
    rate = LearningRate(
        peak=0.01, minimum=0, style="constant", clock="steps", warmup=0, decay=9, share=1
    )
    engine, scripted = (growing_engine(lr_exponent=0.5) for _ in range(2))
    engine.follow_learning_rate(rate)
    scripted.follow_learning_rate(rate)
    steps, batches = engine.training_dataloader.steps(), iter(scripted.training_dataloader)
    counts, saved = [], None
    for number in range(6):
        micro_batches = next(steps)
        counts.append(len(micro_batches))
        assert engine.gradient_accumulation_steps() == counts[-1]
        result = engine.train_step(micro_batches, loss_sums(engine), torch.numel)
        assert result.learning_rate == 0.01 * (counts[-1] / 2) ** 0.5
        for _ in range(counts[-1]):
            tokens = next(batches)
            logits = scripted(tokens).flatten(0, 1)
            scripted.backward(functional.cross_entropy(logits, tokens.flatten()))
            scripted.step()
        assert scripted.counters.steps == number + 1
        if number == 2:
            saved = engine.progress_state()
    assert counts == [1, 1, 2, 2, 3, 3]
    assert engine.counters.consumed_samples == scripted.counters.consumed_samples == 4 * 12
    again = growing_engine(lr_exponent=0.5)
    again.follow_learning_rate(rate)
    again.load_progress_state(saved)
    assert again.gradient_accumulation_steps() == 2
    assert len(next(again.training_dataloader.steps())) == 2
    fixed = growing_engine(lr_exponent=1)
    with pytest.raises(ConfigError, match="the engine does not set the learning rate"):
        fixed.train_step(next(fixed.training_dataloader.steps()), loss_sums(fixed), torch.numel)
