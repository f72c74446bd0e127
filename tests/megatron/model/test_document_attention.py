"""Documents in rows: loss and gradients are those of a mask; the price falls with the documents."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_efficiency import convert_to_random_ltd
from megatron.model.transformer import TransformerLayer
from tests.data_efficiency.routing.reference_loop import drop_in_a_loop
from tests.data_efficiency.small_models import LENGTH, ROWS, dropping
from tests.megatron.model import test_routes
from tests.megatron.model.test_attention_window import assert_same, loss_and_gradients, mask_of
from tests.megatron.model.test_token_dropping import batch, make_model
from tests.megatron.small_models import MODERN


def documents_of(num_rows, length, seed, share=0.3):
    """Rising numbers, a new one at about each so manieth token; they may leave numbers out."""
    generator = torch.Generator().manual_seed(seed)
    steps = (torch.rand(num_rows, length, generator=generator) < share).long()
    return (steps * torch.randint(1, 3, steps.shape, generator=generator)).cumsum(1)


def mask_of_documents(ids, kind="attention_window", size=None):
    """Bool [rows, 1, length, length], True where a query may look at a key."""
    length = ids.shape[1]
    near = mask_of(kind, length if size is None else size, length)
    return (ids[:, None, :, None] == ids[:, None, None, :]) & near


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    window=st.one_of(
        st.none(),
        st.tuples(st.sampled_from(["attention_window", "sliding_window"]), st.integers(1, LENGTH)),
    ),
    architecture=st.sampled_from([{}, MODERN]),
    recompute=st.booleans(),
)
def test_equals_a_mask(seed, share, window, architecture, recompute):
    tokens, labels = batch()
    ids = documents_of(ROWS, LENGTH, seed, share)
    mask = mask_of_documents(ids, *(window or ()))
    expected = loss_and_gradients(make_model(**architecture), tokens, labels, attention_mask=mask)
    model = make_model(**architecture, recompute_activations=recompute)
    limits = {} if window is None else dict([window])
    assert_same(loss_and_gradients(model, tokens, labels, document_ids=ids, **limits), expected)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.3])
@pytest.mark.parametrize("kind", ["attention_window", "sliding_window"])
def test_long_rows_equal_a_mask(share, kind):
    """Several groups of lengths, windows that end inside documents."""
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(0, 50, (2, 3, 300), generator=generator)
    ids = documents_of(3, 300, 2, share)
    mask = mask_of_documents(ids, kind, 90)
    one, other = (make_model(max_position_embeddings=300) for _ in "ab")
    expected = loss_and_gradients(one, tokens, labels, attention_mask=mask)
    assert_same(loss_and_gradients(other, tokens, labels, document_ids=ids, **{kind: 90}), expected)


@pytest.mark.parametrize("architecture", [{}, MODERN], ids=["gpt2", "modern"])
def test_positions_may_begin_anew(architecture):
    """A row of two documents is the two documents as rows."""
    tokens, labels = batch()
    cut, rows = 5, torch.arange(LENGTH)
    ids = (rows >= cut).long().expand(ROWS, -1)
    places = (rows - cut * (rows >= cut)).expand(ROWS, -1)
    model = make_model(**architecture)
    whole = model(tokens, labels=labels, document_ids=ids, position_ids=places)
    parts = [model(tokens[:, part], labels=labels[:, part]) for part in (rows < cut, rows >= cut)]
    torch.testing.assert_close(whole, sum(parts), rtol=1e-10, atol=1e-10)
    shifted = model(tokens, labels=labels, position_ids=places)
    assert not torch.isclose(shifted, model(tokens, labels=labels))


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("architecture", [{}, MODERN], ids=["gpt2", "modern"])
def test_dropped_tokens_leave_documents_and_positions_as_they_were(architecture, recompute, window):
    slow = make_model(**architecture)
    model = make_model(**architecture, recompute_activations=recompute)
    convert_to_random_ltd(model, TransformerLayer, dropping())
    model.random_ltd_scheduler.set_position(9, 4)
    tokens, labels = batch()
    ids = documents_of(ROWS, LENGTH, 3)
    places = torch.arange(LENGTH).flip(0).expand(ROWS, -1)
    limits = {} if window is None else {"attention_window": window}
    found = loss_and_gradients(
        model, tokens, labels, document_ids=ids, position_ids=places, **limits
    )
    drop_in_a_loop(slow.layers, model.random_ltd_scheduler.positions.clone())
    mask = mask_of_documents(ids, "attention_window", window)
    expected = loss_and_gradients(slow, tokens, labels, attention_mask=mask, position_ids=places)
    assert_same(found, expected)


@pytest.mark.parametrize("kind", test_routes.ROUTES)
def test_documents_go_with_every_route(kind):
    """Spans, and rows that skip layers, against a slow loop with a mask."""
    length = test_routes.LENGTH
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(5, 50, (2, test_routes.NUM_ROWS, length), generator=generator)
    ids = documents_of(test_routes.NUM_ROWS, length, 4)
    model, slow = (test_routes.make_model("rotary") for _ in "ab")
    test_routes.convert(model, kind)
    model.random_ltd_scheduler.set_position(2, 4)
    found = loss_and_gradients(model, tokens, labels, document_ids=ids)
    test_routes.by_hand(slow, model.random_ltd_scheduler.draw)
    mask = mask_of_documents(ids)
    assert_same(found, loss_and_gradients(slow, tokens, labels, attention_mask=mask))


def seen_by_attention(ids, length, **limits):
    """(rows, length) of each call of one layer's kernel."""
    model, seen = make_model(max_position_embeddings=length, num_layers=1), []
    (layer,) = model.layers
    whole = layer.self_attention.attend

    def attend(query, *others, **settings):
        seen.append((query.shape[0], query.shape[2]))
        return whole(query, *others, **settings)

    layer.self_attention.attend = attend
    model(torch.zeros_like(ids), document_ids=ids, **limits)
    return seen


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([1, 2, 15, 16, 17, 60, 100, 330, 409, 410]), min_size=1, max_size=9
        ),
        min_size=1,
        max_size=4,
    )
)
@example([[512], [171, 171, 170]])
@example([[512], [410, 102]])
def test_the_price_does_not_rise(rows):
    """Scores that are computed: at most an eighth more than those of whole rows, and not many calls."""
    length = 512
    ids = torch.stack(
        # The last length goes on to the row's end.
        [torch.repeat_interleave(torch.tensor(row + [row[-1]] * length))[:length] for row in rows]
    )
    seen = seen_by_attention(ids, length)
    assert sum(number * size**2 for number, size in seen) <= len(rows) * length**2 * 9 / 8
    assert len(seen) <= 17


def test_equally_long_documents_are_not_padded():
    ids = (torch.arange(128) // 32).expand(3, -1)
    assert seen_by_attention(ids, 128) == [(12, 32)]
    assert seen_by_attention(ids, 128, attention_window=16) == [(24, 16)]
    assert seen_by_attention(torch.zeros(3, 128).long(), 128) == [(3, 128)]


@pytest.mark.parametrize(
    ("given_to_it", "message"),
    [
        ({"document_ids": torch.zeros(1, 3).long()}, r"document_ids have shape \(1, 3\), tokens"),
        ({"position_ids": torch.zeros(1, 3).long()}, r"position_ids have shape \(1, 3\), tokens"),
        (
            {
                "document_ids": torch.zeros(ROWS, LENGTH).long(),
                "attention_mask": mask_of("sliding_window", 3, LENGTH),
            },
            "documents limit causal attention, and a mask replaces it",
        ),
        (
            {"document_ids": torch.arange(LENGTH).flip(0).expand(ROWS, -1)},
            "document_ids fall along a row",
        ),
        (
            {"position_ids": torch.arange(1, LENGTH + 1).expand(ROWS, -1)},
            f"position {LENGTH} is in a row of {LENGTH}",
        ),
    ],
)
def test_what_makes_no_sense(given_to_it, message):
    with pytest.raises(ValueError, match=message):
        make_model(max_position_embeddings=LENGTH + 1)(batch()[0], **given_to_it)


def test_what_a_sliding_window_cannot():
    ids = documents_of(ROWS, LENGTH, 0)
    with pytest.raises(ValueError, match=r"attention.dropout is 0.1: a sliding window has none"):
        make_model(attention_dropout=0.1)(batch()[0], sliding_window=3, document_ids=ids)
