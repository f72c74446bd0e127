from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.evaluation.continuation_scores import Continuation, score_continuations
from tests.megatron.small_models import GPT2, LLAMA, make_gpt

MODELS = [make_gpt(GPT2), make_gpt(LLAMA)]
IDS = st.lists(st.integers(0, 299), min_size=1, max_size=9)


def one_by_one(model, context, ids, max_length):
    """Straight from the definition, token by token."""
    text = (list(context) + list(ids))[-(max_length + 1) :]
    total, greedy = 0.0, True
    with torch.inference_mode():
        for place in range(len(text) - len(ids), len(text)):
            logits = model(torch.tensor([text[:place]]))[0, -1, : model.config.vocab_size]
            likelihoods = logits.log_softmax(-1)
            total += float(likelihoods[text[place]])
            greedy = greedy and int(likelihoods.argmax()) == text[place]
    return total, greedy


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(9, 12),
)
def test_equal_to_the_definition(model, pairs, batch_size, max_length):
    continuations = [Continuation(*pair) for pair in pairs]
    found = score_continuations(model, continuations, batch_size=batch_size, max_length=max_length)
    for pair, (score, greedy) in zip(pairs, found, strict=True):
        expected, expected_greedy = one_by_one(model, *pair, max_length)
        assert score == pytest.approx(expected, abs=1e-3)
        assert greedy == expected_greedy


def test_float32_scores_of_a_large_vocabulary_are_exact():
    """PyTorch's float32 log_softmax on a CPU loses 7e-6 of each token over 49,152 entries."""
    model = make_gpt(replace(GPT2, vocab_size=49152))
    ids = list(range(100, 140))
    (found,) = score_continuations(model, [Continuation([1], ids)], batch_size=1, max_length=48)
    with torch.inference_mode():
        logits = model(torch.tensor([[1, *ids[:-1]]]))[0].double()
    expected = logits.log_softmax(-1)[torch.arange(40), ids].sum()
    assert abs(found[0] - float(expected)) < 1e-4


def test_greedy_continuation_is_recognized():
    model, context = MODELS[0], [1, 2, 3]
    likeliest = int(model(torch.tensor([context]))[0, -1].argmax())
    found = score_continuations(
        model,
        [Continuation(context, [likeliest]), Continuation(context, [(likeliest + 1) % 300])],
        batch_size=1,
        max_length=8,
    )
    assert [greedy for _, greedy in found] == [True, False]


def test_choices_of_one_token_cost_one_pass():
    batches = []
    choices = [Continuation([1, 2, 3], [token]) for token in (5, 6, 7, 8)]
    score_continuations(MODELS[0], choices, batch_size=1, max_length=8, advance=batches.append)
    assert batches == [4]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1]), "request 1: context and continuation need one token"),
        (([1], []), "request 1: context and continuation need one token"),
        (([1], [2] * 9), "request 1: the continuation has 9 tokens, the model reads 8"),
    ],
)
def test_bad_requests(pair, message):
    requests = [Continuation([1], [2]), Continuation(*pair)]
    with pytest.raises(ValueError, match=message):
        score_continuations(MODELS[0], requests, batch_size=1, max_length=8)
