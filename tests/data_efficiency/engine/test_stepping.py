"""One step of the PyTorch engine in one process; several ranks are in test_two_ranks.py."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from data_efficiency import (
    ConfigError,
    Curriculum,
    LearningRate,
    ModelShape,
    NonFiniteError,
    convert_to_random_ltd,
    initialize,
)
from data_efficiency.config.short_form import section_of_parts
from data_efficiency.engine.step import MAX_SKIPPED_UPDATES
from data_efficiency.engine.whole_tensor import gather_all

LENGTH = 6


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(8, 8)

    def forward(self, hidden):
        return hidden + self.dense(hidden).tanh()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.scores = nn.Linear(8, 16)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids):
        hidden = self.dropout(self.tokens(input_ids))
        for layer in self.layers:
            hidden = layer(hidden)
        return self.scores(hidden)


def make_engine(*, accumulation=2, optimizer=torch.optim.AdamW, **sections):
    torch.manual_seed(0)
    sizes = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": accumulation}
    dataset = sections.pop("training_data", None)
    shape = sections.pop("model_shape", None)
    return initialize(
        model=Model(),
        optimizer=lambda parameters: optimizer(parameters, lr=0.01),
        config=sizes | sections,
        training_data=dataset,
        model_shape=shape,
    )[0]


def batches(seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 16, (4, LENGTH), generator=generator) for _ in range(count)]


def loss_sums(engine):
    return lambda tokens: functional.cross_entropy(
        engine(tokens).flatten(0, 1), tokens.flatten(), reduction="sum"
    )


def take_step(engine, seed=0, **settings):
    return engine.train_step(batches(seed), loss_sums(engine), torch.numel, **settings)


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


def test_dropout_depends_on_seed_and_step_alone():
    first, second = make_engine(), make_engine()
    torch.rand(7)
    left = take_step(first).loss
    torch.rand(3)
    assert take_step(second).loss == left
    assert take_step(first).loss != take_step(make_engine()).loss


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


RANDOM_LTD = {
    "enabled": True,
    "total_layer_num": 3,
    "random_ltd_layer_num": 1,
    "random_ltd_layer_id": [1],
    "model_mask_name": None,
    "model_type": "decoder",
    "hidden_state_order": "batch_seq_dim",
    "random_ltd_schedule": {"min_value": 2, "max_value": 2, "schedule_type": "constant"},
}
CURRICULUM = {
    "enabled": True,
    "curriculum_metrics": {
        "seqlen_truncate": {
            "difficulty_type": "value",
            "clustering_type": "single_cluster",
            "min_difficulty": 4,
            "max_difficulty": LENGTH,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 2},
        }
    },
}
WITH_DROPPING = {"data_routing": {"random_ltd": RANDOM_LTD}}
WITH_CURRICULUM = {"data_sampling": {"curriculum_learning": CURRICULUM}}
# How long rows become, only these say.
OPEN_LENGTHS = section_of_parts([Curriculum("seqlen", start=4, steps=4)])
LEGACY = {
    "enabled": True,
    "curriculum_type": "seqlen",
    "min_difficulty": 4,
    "max_difficulty": LENGTH,
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 2},
}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data_efficiency": WITH_DROPPING}, "random_ltd is enabled, but no layer drops tokens"),
        ({"data_efficiency": WITH_CURRICULUM}, "is enabled, but there is no loader"),
        ({"curriculum_learning": LEGACY}, "is enabled, but there is no loader"),
        ({"data_efficiency": OPEN_LENGTHS}, "is enabled, but there is no loader"),
    ],
)
@pytest.mark.parametrize("call", ["train_step", "forward"])
def test_what_is_switched_on_and_not_carried_out_is_refused(sections, message, call):
    engine = make_engine(**sections)
    with pytest.raises(ConfigError, match=message):
        take_step(engine) if call == "train_step" else engine(batches()[0])
    engine.eval()
    engine(batches()[0])


def test_batches_from_elsewhere_do_not_pass_for_the_curriculums():
    rows = torch.randint(0, 16, (64, LENGTH))
    engine = make_engine(training_data=rows, data_efficiency=WITH_CURRICULUM)
    with pytest.raises(ConfigError, match="step 1 was not read from the loader"):
        take_step(engine)
    steps = engine.training_dataloader.steps()
    result = engine.train_step(next(steps), loss_sums(engine), torch.numel)
    assert result.sequence_length == 4
    with pytest.raises(ConfigError, match="step 2 was not read from the loader"):
        take_step(engine)


def test_lengths_are_those_that_the_layers_saw():
    engine = convert_to_random_ltd(make_engine(data_efficiency=WITH_DROPPING), Layer)
    result = take_step(engine)
    assert (result.sequence_length, result.kept_length) == (LENGTH, 2)
    assert result.actual_seq_length == (2 * LENGTH + 2) // 3
    assert result.counters.layer_tokens == 8 * (2 * LENGTH + 2)


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


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Conv2d(3, 8, 4, 4)

    def forward(self, pixel_values):
        return self.map(pixel_values).flatten(2).mean((1, 2))


def test_lengths_that_the_arguments_do_not_tell_are_asked_for():
    engine = initialize(
        model=Images(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        config={"train_micro_batch_size_per_gpu": 2},
    )[0]
    images = [torch.randn(2, 3, 8, 8)]
    call = (images, lambda batch: engine(pixel_values=batch).square().sum(), len)
    with pytest.raises(ValueError, match="give train_step shape="):
        engine.train_step(*call)
    assert engine.train_step(*call, shape=lambda batch: (2, 4)).counters.corpus_tokens == 8


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
