import sys
from types import SimpleNamespace

import pytest

from data_efficiency import StepShape, training_flops
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.run_state import Run, model_shape


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"swiglu": True, "num_key_value_heads": 2, "normalization": "rmsnorm"},
        {"untie_embeddings_and_output_weights": True, "ffn_hidden_size": 80},
    ],
)
def test_flops_without_attention_are_six_for_each_weight_of_a_matrix(settings):
    config = ModelConfig(
        num_layers=3,
        hidden_size=64,
        num_attention_heads=4,
        vocab_size=256,
        max_position_embeddings=8,
        use_rotary_position_embeddings=True,
        disable_bias_linear=True,
        **settings,
    )
    model = GPTModel(config)
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    if config.untie_embeddings_and_output_weights:
        weights -= config.padded_vocab_size * config.hidden_size  # the look-up multiplies nothing
    length = 8
    attention = 12 * config.num_layers * length**2 * config.hidden_size
    found = training_flops(StepShape(num_rows=1, sequence_length=length), model_shape(config))
    assert found == 6 * weights * length + attention


def test_a_line_is_said_in_one_piece(monkeypatch):
    """What a signal raises between two pieces would be printed behind the line, on the same one."""
    pieces = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=pieces.append, flush=lambda: None))
    Run.say(SimpleNamespace(is_first_process=True), "step 1")
    assert pieces[0] == "step 1\n"
    assert not any(pieces[1:])
