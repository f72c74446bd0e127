from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from megatron.config import ModelConfig
from megatron.model.attention import SelfAttention
from megatron.model.blocked_attention import blocked_causal_attention
from megatron.model.optional_kernels import attend_automatically


def make_heads(shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    heads = torch.randn(3, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return [
        tensor.requires_grad_() for tensor in heads.transpose(2, 3).contiguous().transpose(2, 3)
    ]


def result_and_gradients(function, heads, dtype=None):
    inputs = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in heads]
    result = function(*inputs)
    generator = torch.Generator().manual_seed(9)
    upstream = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    return result, *torch.autograd.grad(result, inputs, upstream.to(result.dtype))


def fused(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 2, 127, 128, 129, 256, 300]),
    st.sampled_from([1, 5, 16]),
)
def test_equals_the_fused_kernel(num_rows, num_heads, length, size):
    heads = make_heads((num_rows, num_heads, length, size), torch.float64)
    expected = result_and_gradients(fused, heads)
    found = result_and_gradients(blocked_causal_attention, heads)
    torch.testing.assert_close(found, expected)
    assert found[0].transpose(1, 2).is_contiguous()


def test_bfloat16_stays_close_to_exact_arithmetic():
    heads = make_heads((2, 4, 320, 32), torch.bfloat16)
    exact = result_and_gradients(fused, heads, torch.float64)
    found = result_and_gradients(blocked_causal_attention, heads)
    for rough, wanted in zip(found, exact, strict=True):
        assert rough.dtype == torch.bfloat16
        assert (rough.double() - wanted).norm() < 0.01 * wanted.norm()


def test_autocast_does_not_change_the_dtype():
    heads = make_heads((1, 2, 140, 8), torch.float32)
    expected = blocked_causal_attention(*heads)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = blocked_causal_attention(*heads)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "dtype", "blocked"),
    [
        ({}, torch.bfloat16, True),
        ({}, torch.float32, False),
        ({"num_key_value_heads": 1}, torch.bfloat16, False),
        ({"attention_dropout": 0.1}, torch.bfloat16, False),
    ],
)
def test_the_layer_uses_it_in_bfloat16_where_it_can(changes, dtype, blocked):
    config = ModelConfig(hidden_size=32, num_attention_heads=4, **changes)
    attention = SelfAttention(config).to(dtype)
    inputs = torch.randn(2, 10, 32, dtype=dtype)
    with torch.profiler.profile() as profile:
        attention(inputs).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert ("_BlockedCausalAttention" in names) is blocked


def test_compiled_code_computes_the_same_bits_for_all_lengths_at_once():
    torch.compiler.reset()
    code = torch.compile(
        partial(attend_automatically, attention_mask=None, dropout=0.0, is_causal=True),
        backend="aot_eager",
        dynamic=True,
        fullgraph=True,
    )
    for length in (140, 300):
        heads = make_heads((2, 3, length, 8), torch.bfloat16)
        expected = result_and_gradients(blocked_causal_attention, heads)
        with torch.compiler.set_stance("default" if length == 140 else "fail_on_recompile"):
            found = result_and_gradients(code, heads)
        assert all(map(torch.equal, found, expected))
        assert found[0].transpose(1, 2).is_contiguous()
