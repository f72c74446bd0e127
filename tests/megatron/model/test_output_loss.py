import pytest
import torch
from torch._dynamo.utils import clear_compilation_metrics, get_compilation_metrics

from data_efficiency import IGNORED_LABEL
from megatron.model import output_loss
from megatron.model.output_loss import linear_cross_entropy_sum


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """256 tokens a chunk, and three rows of `make_inputs`' logits, or five of its weight, a block."""
    monkeypatch.setattr(output_loss, "_CHUNK_BYTES", 0)
    monkeypatch.setattr(output_loss, "_BLOCK_NUMBERS", 40)
    monkeypatch.setattr(output_loss, "ACCELERATOR_CHUNK_LOGITS", 0)


def make_inputs(num_tokens: int, dtype=torch.float64, device="cpu") -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(num_tokens)
    hidden = torch.randn(num_tokens, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(11, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (num_tokens,), generator=generator)
    labels[::3] = IGNORED_LABEL
    hidden, weight = (tensor.to(device, dtype).requires_grad_() for tensor in (hidden, weight))
    return hidden, weight, labels.to(device)


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight)
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="sum"
    )


@pytest.mark.parametrize("num_tokens", [1, 2, 255, 256, 257, 700])
def test_loss_and_gradients_are_those_of_the_plain_computation(num_tokens, device):
    inputs = make_inputs(num_tokens, device=device)
    expected = plain(*inputs)
    loss = linear_cross_entropy_sum(*inputs)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected / 7, inputs[:2])
    found = torch.autograd.grad(loss / 7, inputs[:2])
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy_sum(*inputs), expected.detach())


def test_leading_axes_are_free_and_the_backward_pass_may_come_twice():
    hidden, weight, labels = make_inputs(24)
    shaped = hidden.detach().view(2, 3, 4, 8).requires_grad_()
    loss = linear_cross_entropy_sum(shaped, weight, labels.view(2, 3, 4))
    first = torch.autograd.grad(loss, shaped, retain_graph=True)[0]
    assert first.shape == (2, 3, 4, 8)
    assert torch.equal(first, torch.autograd.grad(loss, shaped)[0])


def test_without_a_counted_label_all_is_zero():
    hidden, weight, labels = make_inputs(5)
    loss = linear_cross_entropy_sum(hidden, weight, torch.full_like(labels, IGNORED_LABEL))
    loss.backward()
    assert loss == 0
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("grad", [True, False])
def test_sums_are_float32_under_autocast(grad, device):
    hidden, weight, labels = make_inputs(700, torch.float32, device)
    with torch.autocast(device.type, dtype=torch.bfloat16), torch.set_grad_enabled(grad):
        loss = linear_cross_entropy_sum(hidden, weight, labels)
    assert loss.dtype == torch.float32
    expected = plain(hidden, weight, labels)
    torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)
    if grad:
        wanted = torch.autograd.grad(expected, (hidden, weight))
        for found, exact in zip(torch.autograd.grad(loss, (hidden, weight)), wanted, strict=True):
            assert found.dtype == torch.float32
            assert (found - exact).norm() < 0.02 * exact.norm()


def test_bfloat16_weights_get_bfloat16_gradients():
    hidden, weight, labels = make_inputs(300, torch.bfloat16)
    linear_cross_entropy_sum(hidden, weight, labels).backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_the_logits_of_all_tokens_are_never_in_memory():
    hidden = torch.randn(2048, 4, requires_grad=True)
    weight = torch.randn(512, 4, requires_grad=True)
    labels = torch.randint(0, 512, (2048,))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        linear_cross_entropy_sum(hidden, weight, labels).backward()
    assert 512 * 128 <= largest <= 512 * 256


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("label", [-5, 11])
def test_impossible_labels_are_refused(label, grad):
    hidden, weight, labels = make_inputs(6)
    labels[1] = label
    with torch.set_grad_enabled(grad), pytest.raises((IndexError, RuntimeError), match="out of b"):
        linear_cross_entropy_sum(hidden, weight, labels)


@pytest.mark.parametrize("num_tokens", [0, 1, 300])
def test_a_bias_shifts_the_logits_and_gets_its_gradient(num_tokens):
    hidden, weight, labels = make_inputs(num_tokens)
    bias = torch.linspace(-1, 1, 11, dtype=torch.float64).requires_grad_()
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    loss = linear_cross_entropy_sum(hidden, weight, labels, bias)
    torch.testing.assert_close(loss, expected)
    inputs = (hidden, weight, bias)
    torch.testing.assert_close(
        torch.autograd.grad(loss / 7, inputs), torch.autograd.grad(expected / 7, inputs)
    )
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy_sum(hidden, weight, labels, bias), expected)


def test_a_gpu_gets_larger_chunks(monkeypatch):
    monkeypatch.undo()
    weights = [torch.empty(50304, 1, device=device) for device in ("cpu", "meta")]
    sizes = [output_loss._chunk_tokens(weight, torch.bfloat16) for weight in weights]
    assert sizes == [667, 4096]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_written_for_a_compiler_computes_the_same(dtype):
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = (20 * logits).to(dtype)
    labels = torch.arange(9) * 5
    labels[2] = IGNORED_LABEL
    counted = (labels != IGNORED_LABEL).unsqueeze(1)
    kernel = output_loss._in_memory_of(logits, torch.promote_types(dtype, torch.float32))
    expected, gradient = kernel(logits.clone(), labels, counted)
    found = output_loss._fusible_loss_and_gradient(logits, labels, counted)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits, gradient)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_one_piece_of_compiled_code_serves_all_chunks():
    """On a CPU only if it is made to; 700 tokens end with a shorter chunk."""
    torch.compiler.reset()
    clear_compilation_metrics()
    inputs = make_inputs(700)
    expected = plain(*inputs)
    apply = output_loss._LinearCrossEntropySum.apply
    loss = apply(*inputs, None, torch.float64, True, None)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, inputs[:2])
    torch.testing.assert_close(torch.autograd.grad(loss, inputs[:2]), wanted)
    assert len(get_compilation_metrics()) == 1


def test_a_cpu_computes_operator_by_operator(monkeypatch):
    monkeypatch.setattr(output_loss, "_compiled_loss_and_gradient", None)
    inputs = make_inputs(20)
    compiled = linear_cross_entropy_sum(*inputs, compiled=True)
    assert torch.equal(compiled, linear_cross_entropy_sum(*inputs))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning")
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_gpu_compiles_the_loss(with_bias):
    """700 tokens of random logits: a shorter chunk at the end, and labels that do not count."""
    hidden, weight, labels = make_inputs(700, torch.float32, "cuda")
    bias = torch.linspace(-1, 1, 11, device="cuda").requires_grad_() if with_bias else None
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    exact = plain(*(tensor.double() for tensor in (hidden, weight)), labels)
    if bias is not None:
        logits = torch.nn.functional.linear(hidden.double(), weight.double(), bias.double())
        exact = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    wanted = torch.autograd.grad(exact, inputs)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = linear_cross_entropy_sum(hidden, weight, labels, bias, compiled=True)
    torch.testing.assert_close(loss.double(), exact, rtol=5e-3, atol=0)
    for found, expected in zip(torch.autograd.grad(loss, inputs), wanted, strict=True):
        assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 256, 700])
def test_losses_of_tokens_are_told_beside_the_sum(num_tokens, trains):
    """And the sum is the same to the last bit in training, where it was formed so before."""
    hidden, weight, labels = make_inputs(num_tokens)
    found = torch.full((num_tokens,), -1.0, dtype=torch.float64)
    with torch.set_grad_enabled(trains):
        loss = linear_cross_entropy_sum(hidden, weight, labels, token_losses=found)
        alone = linear_cross_entropy_sum(hidden, weight, labels)
    logits = torch.nn.functional.linear(hidden, weight)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert torch.equal(loss, alone) if trains else torch.isclose(loss, alone)
