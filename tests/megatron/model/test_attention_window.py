"""Windows: loss and gradients are those of a mask; the price falls with the window."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from data_efficiency import convert_to_random_ltd
from megatron.model.attention_window import make_window, two_blocks_attention
from megatron.model.transformer import TransformerLayer
from tests.data_efficiency.routing.reference_loop import drop_in_a_loop
from tests.data_efficiency.small_models import LENGTH, dropping
from tests.megatron.model import test_routes
from tests.megatron.model.test_token_dropping import batch, gradients, make_model
from tests.megatron.small_models import MODERN

KINDS = ("attention_window", "sliding_window")


def mask_of(kind, size, length):
    """Bool [1, 1, length, length], True where a query may look at a key."""
    query, key = torch.arange(length)[:, None], torch.arange(length)
    near = query // size == key // size if kind == "attention_window" else query - key < size
    return (near & (key <= query))[None, None]


def loss_and_gradients(model, tokens, labels, **limits):
    loss = model(tokens, labels=labels, **limits)
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-7, atol=1e-9, msg=name)


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.integers(1, LENGTH + 1),
    architecture=st.sampled_from([{}, MODERN]),
    recompute=st.booleans(),
)
def test_equals_a_mask(kind, size, architecture, recompute):
    tokens, labels = batch()
    expected = loss_and_gradients(
        make_model(**architecture), tokens, labels, attention_mask=mask_of(kind, size, LENGTH)
    )
    model = make_model(**architecture, recompute_activations=recompute)
    assert_same(loss_and_gradients(model, tokens, labels, **{kind: size}), expected)


@pytest.mark.parametrize(("length", "size"), [(300, 100), (300, 7), (129, 128), (512, 200)])
@pytest.mark.parametrize("kind", KINDS)
def test_long_rows_equal_a_mask(kind, length, size):
    """More than one block of queries, windows that end inside one."""
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(0, 50, (2, 2, length), generator=generator)
    expected = loss_and_gradients(
        make_model(max_position_embeddings=length),
        tokens,
        labels,
        attention_mask=mask_of(kind, size, length),
    )
    assert_same(
        loss_and_gradients(
            make_model(max_position_embeddings=length), tokens, labels, **{kind: size}
        ),
        expected,
    )


@pytest.mark.parametrize("size", [1, 3, 4, 5, LENGTH])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("architecture", [{}, MODERN], ids=["gpt2", "modern"])
def test_dropped_tokens_leave_blocks_where_they_were(size, recompute, architecture):
    slow, model = (
        make_model(**architecture),
        make_model(**architecture, recompute_activations=recompute),
    )
    convert_to_random_ltd(model, TransformerLayer, dropping())
    model.random_ltd_scheduler.set_position(9, 4)
    tokens, labels = batch()
    found = loss_and_gradients(model, tokens, labels, attention_window=size)
    drop_in_a_loop(slow.layers, model.random_ltd_scheduler.positions.clone())
    mask = mask_of("attention_window", size, LENGTH)
    assert_same(found, loss_and_gradients(slow, tokens, labels, attention_mask=mask))


@pytest.mark.parametrize("kind", test_routes.ROUTES)
@pytest.mark.parametrize("name", ["learned", "rotary"])
def test_windows_go_with_every_route(kind, name):
    """Spans, and rows that skip layers, against a slow loop with a mask."""
    length, size = test_routes.LENGTH, 5
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, test_routes.NUM_ROWS, length), generator=generator)
    model, slow = (test_routes.make_model(name) for _ in "ab")
    test_routes.convert(model, kind)
    model.random_ltd_scheduler.set_position(2, 4)
    found = loss_and_gradients(model, tokens, labels, attention_window=size)
    test_routes.by_hand(slow, model.random_ltd_scheduler.draw)
    mask = mask_of("attention_window", size, length)
    assert_same(found, loss_and_gradients(slow, tokens, labels, attention_mask=mask))


def test_attention_never_sees_more_than_blocks():
    """What is computed are rows as long as the window."""
    model, seen = make_model(), []
    whole = model.layers[0].self_attention.attend

    def attend(query, *others, **settings):
        seen.append(tuple(query.shape[i] for i in (0, 2)))
        return whole(query, *others, **settings)

    for layer in model.layers:
        layer.self_attention.attend = attend
    tokens, labels = batch()
    model(tokens, labels=labels, attention_window=4)
    assert set(seen) == {(len(tokens) * LENGTH // 4, 4)}


def test_a_window_as_long_as_the_row_is_none():
    assert make_window(LENGTH, None, LENGTH) is None
    assert make_window(None, None, LENGTH) is None
    assert make_window(None, 5, LENGTH) == (5, True, LENGTH)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_stays_close(autocast):
    tokens, labels = batch()
    for kind in KINDS:
        exact, _ = loss_and_gradients(make_model(), tokens, labels, **{kind: 4})
        model = make_model().float() if autocast else make_model().bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(tokens, labels=labels, **{kind: 4})
        loss.backward()
        assert loss.item() == pytest.approx(exact.item(), rel=2e-2)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"attention_window": 0}, "attention_window is 0 and sliding_window is None: give one"),
        (
            {"attention_window": 3, "sliding_window": 3},
            "sliding_window is 3: give one of the two, at least 1",
        ),
        (
            {"attention_window": 3, "attention_mask": mask_of("sliding_window", 3, LENGTH)},
            "a window limits causal attention, and a mask replaces it",
        ),
    ],
)
def test_what_makes_no_sense(limits, message):
    with pytest.raises(ValueError, match=message):
        make_model()(batch()[0], **limits)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 24), window=st.integers(1, 25))
def test_two_blocks_see_what_a_sliding_window_does(length, window):
    """What a GPU computes, in float64: values and gradients are those of a mask."""
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(3, 2, 3, length, 4, generator=generator, dtype=torch.float64)
    found, expected = (heads.clone().requires_grad_() for _ in range(2))
    mask = mask_of("sliding_window", window, length)[0, 0]
    one = two_blocks_attention(*found, window)
    other = functional.scaled_dot_product_attention(*expected, attn_mask=mask)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    for context in (one, other):
        (context * torch.arange(4)).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-11)


def test_what_a_sliding_window_cannot():
    with pytest.raises(ValueError, match=r"attention.dropout is 0.1: a sliding window has none"):
        make_model(attention_dropout=0.1)(batch()[0], sliding_window=3)
    model = make_model()
    convert_to_random_ltd(model, TransformerLayer, dropping())
    model.random_ltd_scheduler.set_position(0, 0)
    with pytest.raises(ValueError, match="a sliding window goes over whole rows"):
        model(*batch()[:1], labels=batch()[1], sliding_window=3)
