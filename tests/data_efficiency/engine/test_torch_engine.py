import pytest
import torch
from torch import nn

from data_efficiency.engine import initialize
from data_efficiency.engine.torch_engine import check_sections
from data_efficiency.json_section import ConfigError

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
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    assert make_engine(optimizer=optimizer).optimizer is optimizer


def test_scheduler_of_the_client_steps_with_the_optimizer():
    def make(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    engine = make_engine(lr_scheduler=make)
    for half in rows().split(4):
        engine.backward(engine(half).sum())
        engine.step()
    assert engine.optimizer.param_groups[0]["lr"] == 0.05


class Position:
    def __init__(self):
        self.calls = []

    def set_position(self, step, first_row):
        self.calls.append((step, first_row))


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
    saved = engine.state_dict()
    expected = [inputs for inputs, _ in batches]
    resumed = make_engine(training_data=dataset)
    resumed.load_state_dict(saved)
    assert (resumed.global_steps, resumed.micro_steps) == (1, 2)
    for left, (right, _) in zip(expected, resumed.training_dataloader, strict=True):
        assert torch.equal(left, right)


def test_a_state_between_micro_batches_is_refused():
    engine = make_engine()
    engine.backward(engine(rows()).sum())
    engine.step()
    with pytest.raises(ValueError, match="whole only between steps"):
        engine.state_dict()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"fp16": {"enabled": True}}, "fp16 is .* would ignore it"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization is"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is"),
        ({"bf16": {"enabled": True, "grads": 1}}, "bf16.grads is not a known key"),
    ],
)
def test_sections_that_would_be_ignored_are_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        check_sections(sections)


def test_sections_that_are_off_or_harmless_are_accepted():
    sections = {
        "fp16": {"enabled": False, "loss_scale": 0},
        "zero_optimization": {"stage": 0},
        "steps_per_print": 10,
        "wall_clock_breakdown": False,
    }
    assert check_sections(sections) == {"bf16": False, "optimizer": None}


def test_calls_that_cannot_be_carried_out(monkeypatch):
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
    with pytest.raises(ValueError, match="only data parallelism"):
        initialize(model=nn.Linear(1, 1), mpu=object(), config={"train_batch_size": 1})
    with pytest.raises(ConfigError, match="no configuration"):
        initialize(model=nn.Linear(1, 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is 2"):
        make_engine()
