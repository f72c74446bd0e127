import pytest
import torch
from torch import nn

from megatron.config import ModelConfig
from megatron.model.transformer import FeedForward, TransformerLayer, make_norm


def make_config(**changes) -> ModelConfig:
    fields = {"num_layers": 2, "hidden_size": 24, "num_attention_heads": 2}
    return ModelConfig(**(fields | changes))


def test_the_feed_forward_part_is_gelu_or_swiglu():
    hidden = torch.randn(2, 5, 24)
    plain = FeedForward(make_config())
    inner = nn.functional.gelu(plain.dense_h_to_4h(hidden), approximate="tanh")
    torch.testing.assert_close(plain(hidden), plain.dense_4h_to_h(inner))
    gated = FeedForward(make_config(swiglu=True, ffn_hidden_size=40))
    assert gated.dense_h_to_4h.weight.shape == (80, 24)
    gate, up = gated.dense_h_to_4h(hidden)[..., :40], gated.dense_h_to_4h(hidden)[..., 40:]
    expected = gated.dense_4h_to_h(gate * gate.sigmoid() * up)
    torch.testing.assert_close(gated(hidden), expected)


def test_the_normalization_is_the_one_asked_for():
    assert isinstance(make_norm(make_config()), nn.LayerNorm)
    norm = make_norm(make_config(normalization="rmsnorm", layernorm_epsilon=1e-3))
    hidden = torch.randn(3, 24)
    expected = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(norm(hidden), expected)


def test_the_layer_adds_both_branches_to_the_stream():
    layer = TransformerLayer(make_config(), layer_number=1)
    hidden = torch.randn(2, 5, 24)
    middle = hidden + layer.self_attention(layer.input_layernorm(hidden))
    expected = middle + layer.mlp(layer.post_attention_layernorm(middle))
    torch.testing.assert_close(layer(hidden), expected)


def test_both_branches_are_dropped_out_in_training():
    layer = TransformerLayer(make_config(hidden_dropout=0.5), layer_number=1)
    hidden = torch.randn(2, 5, 24)
    torch.manual_seed(5)
    result = layer(hidden)
    torch.manual_seed(5)
    dropped = nn.functional.dropout(layer.self_attention(layer.input_layernorm(hidden)), 0.5)
    middle = hidden + dropped
    dropped = nn.functional.dropout(layer.mlp(layer.post_attention_layernorm(middle)), 0.5)
    assert torch.equal(result, middle + dropped)
    layer.eval()
    assert torch.equal(layer(hidden), layer(hidden))


def test_everything_but_hidden_states_goes_by_keyword():
    layer = TransformerLayer(make_config(), layer_number=1)
    with pytest.raises(TypeError, match="positional"):
        layer(torch.randn(2, 5, 24), None)


def gradients_after(recompute: bool) -> list[torch.Tensor]:
    torch.manual_seed(3)
    config = make_config(recompute_activations=recompute, hidden_dropout=0.3, attention_dropout=0.3)
    layer = TransformerLayer(config, layer_number=1)
    hidden = torch.randn(2, 5, 24, requires_grad=True)
    layer(hidden).square().sum().backward()
    return [hidden.grad, *(parameter.grad for parameter in layer.parameters())]


def test_recomputation_gives_the_same_gradients_under_dropout():
    pairs = list(zip(gradients_after(False), gradients_after(True), strict=True))
    assert all(torch.equal(kept, recomputed) for kept, recomputed in pairs)


def test_recomputation_keeps_only_the_input():
    def num_saved(recompute: bool, training: bool = True) -> int:
        saved = []
        layer = TransformerLayer(make_config(recompute_activations=recompute), layer_number=1)
        layer.train(training)
        hidden = torch.randn(2, 5, 24, requires_grad=True)
        weights = {parameter.data_ptr() for parameter in layer.parameters()}

        def pack(tensor):
            if tensor.data_ptr() not in weights:
                saved.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(hidden)
        return len(saved)

    assert num_saved(recompute=True) <= 1
    assert num_saved(recompute=False) > 10
    assert num_saved(recompute=True, training=False) > 10
