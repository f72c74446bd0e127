"""Which weights a step updates, clips and frees the gradients of, where that is not all of a model."""

from functools import partial

import pytest
import torch

from data_efficiency import initialize
from tests.data_efficiency.engine.tiny_engine import Model, batches, loss_sums

SIZES = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}


def engine_of(model, sections=None, **settings):
    return initialize(model=model, config=SIZES | (sections or {}), **settings)[0]


def model_of(*, frozen=False):
    torch.manual_seed(0)
    model = Model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("scores"))
    return model


def three_steps(engine):
    results = [
        engine.train_step(batches(seed), loss_sums(engine), torch.numel) for seed in range(3)
    ]
    return [(step.loss, step.grad_norm) for step in results]


@pytest.mark.parametrize("bf16_weights", [False, True])
def test_weights_that_are_not_optimized_are_as_frozen(bf16_weights):
    sections = {"gradient_clipping": 0.5} | ({"bf16": {"enabled": True}} if bf16_weights else {})
    sgd = partial(torch.optim.SGD, lr=0.1)
    make = partial(engine_of, sections=sections, optimizer=sgd, bf16_weights=bf16_weights)
    free, frozen = model_of(), model_of(frozen=True)
    if bf16_weights:
        # Else the frozen weights alone would stay float32.
        for parameter in frozen.parameters():
            parameter.requires_grad_(True)
    expected = frozen.scores.parameters()
    if not bf16_weights:
        assert three_steps(make(free, model_parameters=free.scores.parameters())) == three_steps(
            make(frozen, model_parameters=expected)
        )
    engine = make(model := model_of(), model_parameters=model.scores.parameters())
    norms = [norm for _, norm in three_steps(engine)]
    # A head of 8 x 16 numbers; gradients that pile up would be three times as long in the third step.
    assert max(norms) < 1.5 * min(norms)
    assert all(parameter.grad is None for parameter in engine._updated_parameters().values())


def test_an_overflow_outside_what_is_optimized_is_over_with_its_step():
    model = model_of()
    engine = engine_of(
        model,
        {"fp16": {"enabled": True, "initial_scale_power": 4, "hysteresis": 1}},
        model_parameters=model.scores.parameters(),
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    handle = model.tokens.weight.register_hook(lambda gradient: gradient * torch.inf)
    first = engine.train_step(batches(), loss_sums(engine), torch.numel)
    handle.remove()
    assert not first.skipped
    assert model.tokens.weight.grad is None


def test_an_optimizer_of_other_weights_is_refused():
    model = model_of()
    temperature = torch.nn.Parameter(torch.ones(3))
    own = torch.optim.AdamW([*model.parameters(), temperature])
    with pytest.raises(ValueError, match=r"shape \(3,\) that is no parameter of the Model"):
        engine_of(model, optimizer=own)
    other = torch.optim.AdamW(model_of().parameters())
    with pytest.raises(ValueError, match="the optimizer of this model's parameters"):
        engine_of(model, optimizer=other)


def test_a_step_without_an_optimizer_says_so():
    engine = engine_of(model_of())
    with pytest.raises(ValueError, match="a step needs an optimizer: give one to initialize"):
        engine.train_step(batches(), loss_sums(engine), torch.numel)
