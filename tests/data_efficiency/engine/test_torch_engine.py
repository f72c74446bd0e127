import json

import pytest
import torch
from torch import nn

from data_efficiency.config import RoutingConfig
from data_efficiency.engine import initialize
from data_efficiency.engine.whole_tensor import gather_all
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.small_models import dropping

ADAM = {"type": "AdamW", "params": {"lr": 0.01, "weight_decay": 0.1}}


def make_engine(model=None, *, accumulation=2, **arguments):
    arguments.setdefault("optimizer", lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": accumulation,
    } | arguments.pop("config", {})
    torch.manual_seed(0)
    return initialize(model=model or nn.Linear(3, 1), config=config, **arguments)[0]


def rows(seed=0, count=8):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def test_accumulated_micro_batches_step_like_the_whole_batch():
    whole, parts = make_engine(accumulation=1), make_engine(accumulation=2)
    batch = rows()
    whole.backward(whole(batch).square().mean())
    whole.step()
    for half in batch.split(4):
        before = [p.clone() for p in parts.parameters()]
        parts.backward(parts(half).square().mean())
        at_boundary = parts.is_gradient_accumulation_boundary()
        parts.step()
        changed = any(
            not torch.equal(a, b) for a, b in zip(before, parts.parameters(), strict=True)
        )
        assert changed == at_boundary
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right)
    assert whole.global_steps == parts.global_steps == 1
    assert (whole.micro_steps, parts.micro_steps) == (1, 2)


def test_a_loss_that_is_a_share_of_the_batch_is_not_divided_again():
    mean, share = make_engine(), make_engine()
    for half in rows().split(4):
        mean.backward(mean(half).square().mean())
        mean.step()
        share.backward(share(half).square().sum() / 8, scale_wrt_gas=False)
        share.step()
    for left, right in zip(mean.parameters(), share.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_clipping_and_the_reported_norm():
    engine = make_engine(accumulation=1, config={"gradient_clipping": 0.5})
    assert engine.get_global_grad_norm() is None
    before = torch.cat([p.detach().flatten() for p in engine.parameters()])
    engine.backward(100 * engine(rows()).sum())
    norm = torch.cat([p.grad.flatten() for p in engine.parameters()]).norm()
    engine.step()
    after = torch.cat([p.detach().flatten() for p in engine.parameters()])
    assert engine.get_global_grad_norm() == pytest.approx(float(norm))
    assert float((after - before).norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_bf16_computes_under_autocast_and_keeps_fp32_weights():
    engine = make_engine(config={"bf16": {"enabled": True}})
    assert engine(rows()).dtype == torch.bfloat16
    assert next(iter(engine.parameters())).dtype == torch.float32
    assert make_engine()(rows()).dtype == torch.float32


def test_optimizer_from_the_json():
    engine = make_engine(optimizer=None, config={"optimizer": ADAM})
    assert isinstance(engine.optimizer, torch.optim.AdamW)
    assert engine.optimizer.defaults["lr"] == 0.01
    assert engine.optimizer.defaults["weight_decay"] == 0.1
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert make_engine(model=model, optimizer=optimizer).optimizer is optimizer


def test_scheduler_of_the_client_steps_with_the_optimizer():
    def make(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    engine = make_engine(lr_scheduler=make)
    for half in rows().split(4):
        engine.backward(engine(half).sum())
        engine.step()
    assert engine.optimizer.param_groups[0]["lr"] == 0.05


def test_a_resumed_scheduler_goes_on_where_it_stood():
    def make(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)

    def take_steps(engine, count):
        rates = []
        for _ in range(count):
            for half in rows().split(4):
                engine.backward(engine(half).sum())
                engine.step()
            rates.append(engine.optimizer.param_groups[0]["lr"])
        return rates

    engine = make_engine(lr_scheduler=make)
    take_steps(engine, 3)
    resumed = make_engine(lr_scheduler=make)
    resumed.load_progress_state(json.loads(json.dumps(engine.progress_state())))
    assert take_steps(resumed, 3) == take_steps(engine, 3) == [0.025, 0.025, 0.0125]


def test_a_scheduler_that_cycles_the_momentum_goes_on_where_it_stood():
    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=9)

    def take_step(engine, seed):
        for half in rows(seed=seed).split(4):
            engine.backward(engine(half).square().mean())
            engine.step()

    engine = make_engine(lr_scheduler=make)
    resumed = make_engine(lr_scheduler=make)
    for seed in range(3):
        take_step(engine, seed)
    resumed.load_whole_weights(gather_all(engine.whole_weights()))
    resumed.load_whole_optimizer_state(gather_all(engine.whole_optimizer_state()))
    resumed.load_progress_state(json.loads(json.dumps(engine.progress_state())))
    for each in (engine, resumed):
        take_step(each, 3)
    for left, right in zip(engine.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


class Position:
    settings = RoutingConfig(num_layers=4, random_ltd=dropping())

    def __init__(self):
        self.calls = []

    def set_position(self, step, first_row, num_samples):
        assert num_samples == 4
        self.calls.append((step, first_row))

    def last_shape(self):
        return None


def test_the_router_is_told_where_each_training_forward_stands():
    engine = make_engine()
    engine.random_ltd_scheduler = Position()
    for half in rows(count=16).split(4):
        engine.backward(engine(half).sum())
        engine.step()
    assert engine.random_ltd_scheduler.calls == [(0, 0), (0, 4), (1, 0), (1, 4)]
    engine.eval()
    engine(rows())
    assert len(engine.random_ltd_scheduler.calls) == 4


def test_loader_and_state():
    dataset = [(row, row.sum()) for row in rows(count=40)]
    engine = make_engine(training_data=dataset)
    batches = iter(engine.training_dataloader)
    for _ in range(2):
        inputs, targets = next(batches)
        engine.backward((engine(inputs).squeeze() - targets).square().mean())
        engine.step()
    saved = engine.progress_state()
    expected = [inputs for inputs, _ in batches]
    resumed = make_engine(training_data=dataset)
    resumed.load_progress_state(saved)
    assert (resumed.global_steps, resumed.micro_steps) == (1, 2)
    for left, (right, _) in zip(expected, resumed.training_dataloader, strict=True):
        assert torch.equal(left, right)


def test_a_state_between_micro_batches_is_refused():
    engine = make_engine()
    engine.backward(engine(rows()).sum())
    engine.step()
    with pytest.raises(ValueError, match="whole only between steps"):
        engine.progress_state()


def test_fp16_scales_and_skips_steps_that_overflow():
    sections = {"fp16": {"enabled": True, "initial_scale_power": 4, "hysteresis": 1}}
    engine = make_engine(accumulation=1, config=sections)
    plain = make_engine(accumulation=1)
    assert engine(rows()).dtype == torch.float16
    for each in (engine, plain):
        each.backward(each(rows()).float().square().mean())
        each.step()
    for left, right in zip(engine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-3)
    before = [p.clone() for p in engine.parameters()]
    engine.backward(engine(rows()).sum() * float("inf"))
    engine.step()
    assert all(torch.equal(a, b) for a, b in zip(before, engine.parameters(), strict=True))
    assert (engine.global_steps, engine.skipped_steps, engine.loss_scale.value) == (2, 1, 8.0)
    resumed = make_engine(accumulation=1, config=sections)
    resumed.load_progress_state(engine.progress_state())
    assert (resumed.skipped_steps, resumed.loss_scale.value) == (1, 8.0)


def test_whole_state_goes_to_another_engine_of_the_same_shape():
    engine, copy = (make_engine(optimizer=None, config={"optimizer": ADAM}) for _ in range(2))
    for half in rows().split(4):
        engine.backward(engine(half).square().mean())
        engine.step()
    copy.load_whole_weights(gather_all(engine.whole_weights()))
    copy.load_whole_optimizer_state(gather_all(engine.whole_optimizer_state()))
    for each in (engine, copy):
        for half in rows(seed=1).split(4):
            each.backward(each(half).square().mean())
            each.step()
    for left, right in zip(engine.parameters(), copy.parameters(), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(ValueError, match=r"another model: bias has shape \(1,\), here \(2,\)"):
        make_engine(nn.Linear(3, 2)).load_whole_weights(gather_all(engine.whole_weights()))


class CountsInGroups(torch.optim.Optimizer):
    """Steps of one n-th in the n-th step, counted in the groups as apex and DeepSpeed do."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1, "step": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] += 1
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 0.1)
                parameter.sub_(mean / group["step"])


def test_steps_that_an_optimizer_counts_in_its_groups_are_kept():
    engine, copy = (make_engine(optimizer=CountsInGroups) for _ in range(2))
    assert gather_all(engine.whole_optimizer_state()) == {}
    for half in rows().split(4):
        engine.backward(engine(half).square().mean())
        engine.step()
    state = gather_all(engine.whole_optimizer_state())
    assert {float(state[f"{name}.step"]) for name in ("weight", "bias")} == {1.0}
    copy.load_whole_weights(gather_all(engine.whole_weights()))
    copy.load_whole_optimizer_state(state)
    for each in (engine, copy):
        for half in rows(seed=1).split(4):
            each.backward(each(half).square().mean())
            each.step()
    for left, right in zip(engine.parameters(), copy.parameters(), strict=True):
        assert torch.equal(left, right)


def test_calls_that_cannot_be_carried_out():
    with pytest.raises(ConfigError, match="an optimizer is given to initialize and in the JSON"):
        make_engine(config={"optimizer": ADAM})
    engine = make_engine(optimizer=None)
    engine.micro_steps = 1
    with pytest.raises(ValueError, match="needs an optimizer"):
        engine.step()
    with pytest.raises(ValueError, match="no training loader"):
        engine.set_data_post_process_func(lambda batch, state: batch)
    with pytest.raises(ValueError, match="model is None"):
        initialize(config={"train_batch_size": 1})
    with pytest.raises(ValueError, match="the mesh is made here; give tensor_parallel"):
        initialize(model=nn.Linear(1, 1), mpu=object(), config={"train_batch_size": 1})
    with pytest.raises(ConfigError, match="no configuration"):
        initialize(model=nn.Linear(1, 1))
    with pytest.raises(ValueError, match='engine is \'jax\': must be "torch" or "deepspeed"'):
        make_engine(engine="jax")
