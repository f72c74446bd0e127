import math

import pytest
import torch
from torch import nn

from megatron.config import ModelConfig
from megatron.model.language_model import LanguageModel, check_ids, initialize_weights


def make_model(**changes) -> LanguageModel:
    torch.manual_seed(0)
    fields = {
        "num_layers": 3,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 500,
        "max_position_embeddings": 12,
    }
    config = ModelConfig(**(fields | changes))
    model = LanguageModel(config)
    initialize_weights(model, config)
    return model


@pytest.mark.parametrize("rotary", [False, True])
def test_positions_matter_and_later_tokens_do_not(rotary):
    model = make_model(use_rotary_position_embeddings=rotary).eval()
    assert hasattr(model, "position_embeddings") != rotary
    tokens = torch.randint(0, 500, (2, 12))
    states = model(tokens)
    assert states.shape == (2, 12, 64)
    changed = tokens.clone()
    changed[:, 8] += 1
    changed %= 500
    torch.testing.assert_close(model(changed)[:, :8], states[:, :8])
    assert not torch.allclose(model(changed)[:, 8:], states[:, 8:])
    torch.testing.assert_close(model(tokens[:, :5]), states[:, :5])
    swapped = tokens[:, [1, 0, *range(2, 12)]]
    assert not torch.allclose(model(swapped)[:, 11], states[:, 11])


def test_a_mask_replaces_the_causal_rule():
    model = make_model().eval()
    tokens = torch.randint(0, 500, (2, 12))
    causal = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    torch.testing.assert_close(model(tokens, attention_mask=causal), model(tokens))
    everything = torch.ones_like(causal)
    assert not torch.allclose(model(tokens, attention_mask=everything), model(tokens))


@pytest.mark.parametrize("rotary", [False, True])
def test_weights_have_the_published_spread(rotary):
    config = {"init_method_std": 0.1, "use_rotary_position_embeddings": rotary}
    model = make_model(**config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "layernorm" in name:
            assert (parameter == 1).all(), name
        else:
            output = name.endswith(("self_attention.dense.weight", "dense_4h_to_h.weight"))
            expected = 0.1 / math.sqrt(6) if output else 0.1
            assert abs(parameter.std().item() / expected - 1) < 0.1, name


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 13, dtype=torch.int64), "13 positions: at most 12"),
        (torch.zeros(5, dtype=torch.int64), r"shape \(5,\): must be \[batch, sequence\]"),
        (torch.full((1, 4), 500), "token id 500 is outside the vocabulary of 500 entries"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    model = make_model()
    assert model.word_embeddings.num_embeddings == 512
    with pytest.raises(ValueError, match=message):
        model(tokens)


def test_negative_ids_do_not_pass():
    with pytest.raises(IndexError):
        make_model()(torch.full((1, 4), -1))


def test_ids_on_other_devices_are_left_to_them():
    check_ids(torch.empty(3, dtype=torch.int64, device="meta"), 10, "token")
    check_ids(torch.empty(0, 4, dtype=torch.int64), 10, "token")


def test_all_maps_are_plain_linear_layers():
    parts = {type(module) for module in make_model().modules() if not list(module.children())}
    assert parts == {nn.Linear, nn.Embedding, nn.LayerNorm}
