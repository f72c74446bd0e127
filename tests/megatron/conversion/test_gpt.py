from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron.config import ModelConfig
from megatron.conversion.gpt import gpt_from_hugging_face, gpt_rules, gpt_to_hugging_face
from megatron.conversion.weights import to_ours, to_theirs
from tests.megatron.small_models import GPT2, LLAMA, make_gpt


@st.composite
def configs(draw):
    heads = draw(st.sampled_from((1, 2, 4)))
    llama = draw(st.booleans())
    shared = {
        "num_layers": draw(st.integers(1, 3)),
        "hidden_size": heads * draw(st.sampled_from((2, 4, 6))),
        "num_attention_heads": heads,
        "ffn_hidden_size": draw(st.sampled_from((None, 24))),
        "vocab_size": draw(st.integers(1, 200)),
        "make_vocab_size_divisible_by": draw(st.sampled_from((1, 8, 128))),
        "max_position_embeddings": draw(st.integers(1, 16)),
        "untie_embeddings_and_output_weights": draw(st.booleans()),
    }
    if not llama:
        return ModelConfig(**shared)
    return ModelConfig(
        **shared,
        num_key_value_heads=draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0])),
        use_rotary_position_embeddings=True,
        rotary_position_embeddings_theta=draw(st.sampled_from((1e4, 5e5))),
        normalization="rmsnorm",
        swiglu=True,
        disable_bias_linear=True,
    )


@given(configs())
def test_settings_and_weights_come_back(config):
    fields = gpt_to_hugging_face(config)
    back = gpt_from_hugging_face(fields)
    for name in ("kv_heads", "ffn_size", "vocab_size"):
        assert getattr(back, name) == getattr(config, name)
    derived = ("num_key_value_heads", "ffn_hidden_size", "make_vocab_size_divisible_by")
    same = {name: getattr(config, name) for name in derived}
    assert replace(back, **same) == config
    weights = make_gpt(config).state_dict()
    rules = gpt_rules(config)
    again = to_ours(to_theirs(weights, rules), gpt_rules(back))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(LLAMA, swiglu=False), "here --swiglu is not set"),
        (replace(GPT2, num_key_value_heads=1), "keys and values are grouped"),
        (replace(GPT2, disable_bias_linear=True), "--use-rotary-position-embeddings, --norm"),
    ],
)
def test_settings_without_a_counterpart_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        gpt_rules(config)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (GPT2, {"model_type": "opt"}, "model_type is 'opt': a GPT of ours is made from gpt2 or"),
        (GPT2, {"activation_function": "relu"}, "activation_function is 'relu' in config.json"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "only False can be converted"),
        (LLAMA, {"attention_bias": True}, "attention_bias is True"),
        (LLAMA, {"head_dim": 64}, "head_dim is 64 in config.json"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ],
)
def test_foreign_settings_are_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        gpt_from_hugging_face(gpt_to_hugging_face(config) | change)
