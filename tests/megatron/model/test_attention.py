import math

import pytest
import torch

from megatron.config import ModelConfig
from megatron.model.attention import SelfAttention
from megatron.model.rotary import apply_rotary, rotary_tables


def make_attention(**changes) -> SelfAttention:
    torch.manual_seed(0)
    fields = {"hidden_size": 32, "num_attention_heads": 4}
    return SelfAttention(ModelConfig(**(fields | changes))).double()


def by_hand(
    attention: SelfAttention, hidden: torch.Tensor, allowed: torch.Tensor, tables=None
) -> torch.Tensor:
    """Attention one row and one head at a time; `allowed` is [batch, sequence, sequence]."""
    num_queries, num_keys = attention.num_query_heads, attention.num_key_value_heads
    outputs = []
    for row, may_look in zip(hidden, allowed, strict=True):
        heads = attention.query_key_value(row).unflatten(-1, (-1, attention.head_size))
        query, key, value = heads.split((num_queries, num_keys, num_keys), dim=1)
        if tables is not None:
            query, key = (apply_rotary(part[None], *tables)[0] for part in (query, key))
        contexts = []
        for head in range(num_queries):
            shared = head // (num_queries // num_keys)
            scores = query[:, head] @ key[:, shared].T / math.sqrt(attention.head_size)
            weights = scores.masked_fill(~may_look, -math.inf).softmax(-1)
            contexts.append(weights @ value[:, shared])
        outputs.append(attention.dense(torch.cat(contexts, dim=-1)))
    return torch.stack(outputs)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("num_key_value_heads", [None, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_the_formula(num_key_value_heads, rotary, masked):
    attention = make_attention(num_key_value_heads=num_key_value_heads)
    hidden = torch.randn(2, 6, 32, dtype=torch.float64)
    allowed = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    if masked:
        allowed[1, 3:, :3] = False
    tables = rotary_tables(6, 8, 100.0, hidden.device) if rotary else None
    named = dict(zip(("rotary_cos", "rotary_sin"), tables, strict=True)) if tables else {}
    mask = allowed.unsqueeze(1) if masked else None
    result = attention(hidden, attention_mask=mask, **named)
    torch.testing.assert_close(result, by_hand(attention, hidden, allowed, tables))


def test_bias_is_left_out_where_asked():
    assert all("bias" not in name for name in make_attention(disable_bias_linear=True).state_dict())
    assert "dense.bias" in make_attention().state_dict()


def test_dropout_acts_in_training_only():
    attention = make_attention(attention_dropout=0.5)
    hidden = torch.randn(2, 6, 32, dtype=torch.float64)
    assert not torch.equal(attention(hidden), attention(hidden))
    attention.eval()
    assert torch.equal(attention(hidden), attention(hidden))
    torch.testing.assert_close(attention(hidden), make_attention()(hidden))
