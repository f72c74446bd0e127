"""Logits of the decoder that keeps keys and values are those of the whole model, position by position."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import convert_to_random_ltd
from megatron.model.cached_decoder import CachedDecoder
from megatron.model.transformer import TransformerLayer
from tests.end_to_end.tiny_runs import random_ltd_section
from tests.megatron.small_models import GPT2, LLAMA, make_gpt

MODELS = {name: make_gpt(config) for name, config in (("gpt2", GPT2), ("llama", LLAMA))}


def ids(*shape, seed=0):
    return torch.randint(300, shape, generator=torch.Generator().manual_seed(seed))


def expected(model, tokens):
    with torch.inference_mode():
        return model(tokens)[:, -1, :300]


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(MODELS)),
    st.integers(1, 3),
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
)
def test_equal_to_the_whole_model_however_the_text_is_cut(name, batch_size, parts):
    model, tokens = MODELS[name], ids(batch_size, sum(parts))
    decoder = CachedDecoder(model, batch_size, 32)
    for part in parts:
        start = decoder.length
        logits = decoder.next_logits(tokens[:, start : start + part])
        assert torch.allclose(logits, expected(model, tokens[:, : start + part]), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_padding_changes_nothing(name, lengths):
    model, longest = MODELS[name], max(lengths)
    texts = [ids(1, length + 2, seed=length) for length in lengths]
    padding = torch.tensor([longest - length for length in lengths])
    decoder = CachedDecoder(model, len(lengths), longest + 2, padding)
    first = torch.cat([ids(1, longest + 2, seed=99)[:, : longest + 2]] * len(lengths))
    for row, text in enumerate(texts):
        first[row, padding[row] :] = text
    for end in (longest, longest + 1, longest + 2):
        logits = decoder.next_logits(first[:, decoder.length : end])
        for row, text in enumerate(texts):
            seen = text[:, : end - padding[row]]
            assert torch.allclose(logits[row], expected(model, seen)[0], atol=1e-4)


def test_token_dropping_has_no_part():
    model = make_gpt(replace(GPT2, num_layers=4))
    tokens = ids(2, 9)
    before = expected(model, tokens)
    section = {"data_routing": {"random_ltd": random_ltd_section()}, "seed": 1}
    converted = convert_to_random_ltd(model, TransformerLayer, config={"data_efficiency": section})
    assert torch.equal(
        CachedDecoder(converted.eval(), 2, 9).next_logits(tokens),
        CachedDecoder(model, 2, 9).next_logits(tokens),
    )
    assert torch.allclose(CachedDecoder(converted, 2, 9).next_logits(tokens), before, atol=1e-4)


def test_bfloat16():
    model = make_gpt(LLAMA).bfloat16()
    logits = CachedDecoder(model, 1, 8).next_logits(ids(1, 8))
    assert logits.dtype == torch.bfloat16
    assert torch.allclose(logits.float(), expected(model, ids(1, 8)).float(), atol=0.3, rtol=0.1)


def test_bad_input():
    model = MODELS["gpt2"]
    with pytest.raises(ValueError, match="take 49 positions: the model has 48"):
        CachedDecoder(model, 1, 49)
    decoder = CachedDecoder(model, 1, 4)
    with pytest.raises(ValueError, match="no room for position 5"):
        decoder.next_logits(ids(1, 5))
    with pytest.raises(ValueError, match="token id 300 is outside"):
        decoder.next_logits(torch.tensor([[300]]))
