import pytest

from megatron.config import ModelConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 0}, "--num-layers is 0: must be positive"),
        ({"hidden_size": 100}, r"--hidden-size is 100: must be a multiple of --num"),
        ({"num_key_value_heads": 5}, r"must divide --num-attention-heads \(12\)"),
        ({"hidden_size": 36, "use_rotary_position_embeddings": True}, "even number of channels"),
        ({"hidden_dropout": 1.0}, "--hidden-dropout is 1.0"),
    ],
)
def test_rules(values, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)


def test_sizes_that_are_derived():
    config = ModelConfig(hidden_size=768, vocab_size=50257)
    assert (config.ffn_size, config.kv_heads, config.head_size) == (3072, 12, 64)
    assert config.padded_vocab_size == 50304
    assert ModelConfig(swiglu=True).ffn_size == 2048
    assert ModelConfig(ffn_hidden_size=100).ffn_size == 100
    assert ModelConfig(num_key_value_heads=4).kv_heads == 4
