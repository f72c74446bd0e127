from functools import partial

import pytest
import torch
from torch import nn

from data_efficiency.engine import initialize
from data_efficiency.engine.masters import Masters
from data_efficiency.engine.whole_tensor import gather_all
from data_efficiency.json_section import ConfigError


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 4, bias=False)
        self.again = self.last
        self.register_buffer("scale", torch.full((1,), 1.001))

    def forward(self, rows):
        return self.last(self.first(rows).tanh()) * self.scale


def make_engine(*, accumulation=1, bf16=True, lr=1e-3, weights=True):
    torch.manual_seed(0)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": bf16},
    }
    return initialize(
        model=Tied(),
        config=config,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=lr, fused=True),
        bf16_weights=weights,
    )[0]


def train(engine, seeds):
    for seed in seeds:
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        engine.backward(engine(rows).square().mean())
        engine.step()


def test_a_weight_is_its_master_rounded_and_computes_as_one_that_is_cast():
    engine, cast = make_engine(), make_engine(weights=False)
    rows = torch.randn(8, 4)
    assert torch.equal(engine(rows), cast(rows))
    train(engine, range(5))
    masters = gather_all(engine.whole_weights())
    assert {tensor.dtype for tensor in masters.values()} == {torch.float32}
    for name, own in engine.module.named_parameters():
        assert own.dtype == torch.bfloat16
        assert torch.equal(own, masters[name].bfloat16())
        assert not torch.equal(own.float(), masters[name])
    cast.load_whole_weights(masters)
    assert torch.equal(engine(rows), cast(rows))
    # A buffer is no weight.
    assert engine.module.scale.dtype == torch.float32


def test_the_same_steps_as_with_casts():
    """Forward, gradients and updates have the same bits where there is no residual stream."""
    engine, cast = make_engine(), make_engine(weights=False)
    for each in (engine, cast):
        train(each, range(6))
    found, wanted = (gather_all(each.whole_weights()) for each in (engine, cast))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert engine.get_global_grad_norm() == cast.get_global_grad_norm()


def test_updates_too_small_for_bfloat16_add_up():
    engine = make_engine(lr=1e-5)
    weight = engine.module.first.weight
    before = weight.detach().clone()
    train(engine, [0])
    few = (weight != before).sum()
    train(engine, range(1, 200))
    assert few <= 2 < weight.numel() // 2 < (weight != before).sum()


def test_gradients_of_micro_batches_are_summed_in_float32():
    parts = make_engine(accumulation=4)
    train(parts, range(3))
    master = parts._updated_parameters()["first.weight"]
    assert (master.grad.dtype, parts.module.first.weight.grad) == (torch.float32, None)
    assert not torch.equal(master.grad, master.grad.bfloat16().float())
    train(parts, [3])
    assert master.grad is None


def test_a_resumed_engine_goes_on_with_the_same_bits():
    whole, parts = make_engine(), make_engine()
    train(whole, range(6))
    train(parts, range(3))
    resumed = make_engine()
    resumed.load_whole_weights(gather_all(parts.whole_weights()))
    resumed.load_whole_optimizer_state(gather_all(parts.whole_optimizer_state()))
    train(resumed, range(3, 6))
    for get in ("whole_weights", "whole_optimizer_state"):
        found, wanted = (gather_all(getattr(each, get)()) for each in (resumed, whole))
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_cannot_be():
    with pytest.raises(ConfigError, match=r"bf16_weights is true, but bf16\.enabled is not"):
        make_engine(bf16=False)
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="has a state already"):
        Masters(module).put_into(optimizer)


def test_weights_that_come_in_half_precision_have_originals_or_are_refused():
    sizes = {"train_micro_batch_size_per_gpu": 8}
    sgd = partial(torch.optim.SGD, lr=2.0**-12)

    def engine_of(kind, **settings):
        model = nn.Linear(4, 1, bias=False).to(kind)
        nn.init.ones_(model.weight)
        config = sizes | {"bf16": {"enabled": True}}
        return initialize(model=model, config=config, optimizer=sgd, **settings)[0]

    for kind in (torch.bfloat16, torch.float16):
        engine = engine_of(kind, bf16_weights=True)
        for _ in range(4):
            engine.backward(engine(torch.ones(8, 4)).float().mean())
            engine.step()
        found = gather_all(engine.whole_weights())["weight"]
        assert torch.equal(found, torch.full((1, 4), 1 - 2.0**-10))
        with pytest.raises(ConfigError, match="weight is torch.*float16: .* dtype=torch.float32"):
            engine_of(kind)
    config = sizes | {"fp16": {"enabled": True}}
    with pytest.raises(ConfigError, match=r"fp16.enabled is true, and weight is torch.float16"):
        initialize(model=nn.Linear(4, 1).half(), config=config, optimizer=sgd)
