"""flash-attn and apex themselves are tried where they are installed; their conventions, everywhere."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.model.optional_kernels import (
    ATTENTIONS,
    _flash_attention,
    attend_automatically,
    choose_attention,
    make_adamw,
)

CONFIG = ModelConfig(
    num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=60, max_position_embeddings=16
)


@pytest.fixture(autouse=True)
def _forget_what_is_installed():
    _flash_attention.cache_clear()
    yield
    _flash_attention.cache_clear()


def install(monkeypatch, folder, name, source):
    """A package that can be imported for the length of a test."""
    path = folder / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    for module in {name, name.partition(".")[0]}:
        # Set first, so that the end of the test takes out what it imported.
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]


def heads(num_keys=4, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 10, 8), (2, num_keys, 10, 8), (2, num_keys, 10, 8))
    return [
        torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
        for shape in shapes
    ]


def result_and_gradients(attend, tensors, **settings):
    result = attend(*tensors, **settings)
    weights = torch.linspace(-1, 1, result.numel()).reshape(result.shape).to(result)
    gradients = torch.autograd.grad((result * weights).sum(), tensors)
    return [result.detach(), *gradients]


CASES = {
    "causal": {"attention_mask": None, "dropout": 0.0, "is_causal": True},
    "all": {"attention_mask": None, "dropout": 0.0, "is_causal": False},
    "masked": {
        "attention_mask": (torch.arange(10) < 7)[None, None, None, :],
        "dropout": 0.0,
        "is_causal": False,
    },
}


@pytest.mark.parametrize("num_keys", [4, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["auto", "sdpa"])
def test_all_that_can_run_here_are_equal_within_rounding(name, case, num_keys):
    expected = result_and_gradients(ATTENTIONS["math"], heads(num_keys), **CASES[case])
    found = result_and_gradients(ATTENTIONS[name], heads(num_keys), **CASES[case])
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def test_without_optional_packages_auto_is_what_pytorch_chooses():
    found = attend_automatically(*heads(), **CASES["causal"])
    assert torch.equal(found, functional.scaled_dot_product_attention(*heads(), is_causal=True))


@pytest.mark.parametrize("name", ["math", "sdpa"])
def test_a_model_computes_with_what_was_chosen(name, monkeypatch):
    calls = []

    def counted(*tensors, **settings):
        calls.append(tensors[0].shape)
        return attend_automatically(*tensors, **settings)

    monkeypatch.setitem(ATTENTIONS, name, counted)
    model = GPTModel(CONFIG)
    tokens = torch.arange(12)[None]
    before = model(tokens, labels=tokens)
    choose_attention(model, name)
    assert torch.equal(model(tokens, labels=tokens), before)
    assert calls == [(1, 4, 12, 8)] * 2
    choose_attention(model, "auto")
    model(tokens, labels=tokens)
    assert len(calls) == 2


def test_what_is_missing_is_an_error_only_by_name():
    if _flash_attention() is not None:
        pytest.skip("flash-attn is installed")
    model = GPTModel(CONFIG)
    choose_attention(model, "auto")
    message = "--attention-implementation is 'flash': flash-attn cannot be imported; or choose auto"
    with pytest.raises(ValueError, match=message):
        choose_attention(model, "flash")
    with pytest.raises(ValueError, match="'apex': apex cannot be imported: install it, or choose"):
        make_adamw([{"params": list(model.parameters())}], "apex", lr=0.1)


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_a_package_built_for_another_pytorch_is_as_good_as_missing(monkeypatch, tmp_path, error):
    install(monkeypatch, tmp_path, "flash_attn", f"raise {error}('undefined symbol')")
    assert _flash_attention() is None
    assert attend_automatically(*heads(), **CASES["causal"]).shape == (2, 4, 10, 8)


FLASH_ATTENTION = """
import math
import torch


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    "[batch, sequence, heads, head_size], fewer heads of keys allowed, as the real one."
    assert dropout_p == 0.0 and softmax_scale is None
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -math.inf).triu(1)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
"""


@pytest.mark.parametrize("num_keys", [4, 2])
@pytest.mark.parametrize("case", ["causal", "all"])
def test_flash_is_called_as_its_documentation_says(monkeypatch, tmp_path, case, num_keys):
    install(monkeypatch, tmp_path, "flash_attn", FLASH_ATTENTION)
    with pytest.raises(ValueError, match="'flash': the model is on a cpu; or choose auto"):
        ATTENTIONS["flash"](*heads(), **CASES["causal"])
    with pytest.raises(ValueError, match="it takes no attention mask, and this model has one"):
        ATTENTIONS["flash"](*heads(), **CASES["masked"])
    expected = result_and_gradients(ATTENTIONS["math"], heads(num_keys), **CASES[case])
    monkeypatch.setattr("megatron.model.optional_kernels._reason_against_flash", lambda _: None)
    for name in ("flash", "auto"):
        found = result_and_gradients(ATTENTIONS[name], heads(num_keys), **CASES[case])
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)


def updated(make, num_steps=5):
    """Weights after some updates by gradients that depend on nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = make(groups)
    for step in range(num_steps):
        for parameter in model.parameters():
            numbers = torch.arange(parameter.numel(), dtype=torch.float32, device=parameter.device)
            parameter.grad = (numbers + step).sin().reshape(parameter.shape)
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()], optimizer


SETTINGS = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8}


def test_optimizers_of_pytorch_are_equal_within_rounding():
    fused, _ = updated(lambda groups: make_adamw(groups, "fused", **SETTINGS))
    foreach, _ = updated(lambda groups: make_adamw(groups, "foreach", **SETTINGS))
    auto, _ = updated(lambda groups: make_adamw(groups, "auto", **SETTINGS))
    for one, other, same in zip(fused, foreach, auto, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        assert torch.equal(one, same)


APEX = """
import torch


class FusedAdam(torch.optim.Optimizer):
    "As apex's: the step is counted in the groups, and from the first step on."

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=False, weight_decay=0.0):
        assert adam_w_mode
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] = group["step"] + 1 if "step" in group else 1
            first, second = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["exp_avg"].lerp_(p.grad, 1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
                mean = state["exp_avg"] / (1 - first ** group["step"])
                square = state["exp_avg_sq"] / (1 - second ** group["step"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * mean / (square.sqrt() + group["eps"]))
"""


def test_apex_is_called_as_its_documentation_says(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, "apex.optimizers", APEX)
    found, optimizer = updated(lambda groups: make_adamw(groups, "apex", **SETTINGS))
    expected, _ = updated(lambda groups: make_adamw(groups, "auto", **SETTINGS))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
    assert [group["step"] for group in optimizer.param_groups] == [5, 5]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("num_keys", [4, 2])
@pytest.mark.parametrize("case", ["causal", "all"])
@pytest.mark.parametrize("name", ["auto", "sdpa", "flash"])
def test_kernels_of_a_gpu_are_equal_within_half_precision(name, case, num_keys):
    if name == "flash":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    exact = result_and_gradients(
        ATTENTIONS["math"], heads(num_keys, torch.float64, "cuda"), **CASES[case]
    )
    found = result_and_gradients(
        ATTENTIONS[name], heads(num_keys, torch.bfloat16, "cuda"), **CASES[case]
    )
    for left, right in zip(found, exact, strict=True):
        error = (left.double() - right).norm() / right.norm()
        assert error < 4 * 2.0**-8 * math.sqrt(2)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["foreach", "apex"])
def test_optimizers_of_a_gpu_are_equal_within_rounding(name):
    if name == "apex":
        pytest.importorskip("apex.optimizers", reason="apex is not installed")

    def on_gpu(groups, implementation):
        for group in groups:
            for parameter in group["params"]:
                parameter.data = parameter.data.to("cuda")
        return make_adamw(groups, implementation, **SETTINGS)

    found, _ = updated(lambda groups: on_gpu(groups, name))
    expected, _ = updated(lambda groups: on_gpu(groups, "fused"))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
