import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.accounting import ModelShape, StepShape, layer_tokens, training_flops
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.step import (
    NonFiniteError,
    mean_losses,
    mean_losses_over,
    named,
    pairs_in_documents,
    reduce_step,
    refuse_non_finite,
)

NUM_LAYERS = 5
shapes = st.builds(
    StepShape,
    num_rows=st.integers(1, 4),
    sequence_length=st.integers(1, 9),
    num_dropping_layers=st.just(2),
    kept_length=st.one_of(st.none(), st.integers(1, 12)),
)


@given(st.lists(shapes, min_size=1, max_size=4))
def test_totals_equal_a_count_layer_by_layer_and_row_by_row(found):
    totals = reduce_step(
        Ranks(), found, num_layers=NUM_LAYERS, model_shape=None, num_samples=7, loss_tokens=3
    )
    rows = [shape for shape in found for _ in range(shape.num_rows)]
    lengths = [shape.sequence_length for shape in rows]
    kept = [shape.dropped_sequence_length for shape in rows]
    everything = sum((NUM_LAYERS - 2) * a + 2 * b for a, b in zip(lengths, kept, strict=True))
    added = totals.added
    assert (added.steps, added.consumed_samples, added.loss_tokens) == (1, 7, 3)
    assert (added.corpus_tokens, added.layer_tokens) == (sum(lengths), everything)
    assert everything == sum(layer_tokens(shape, NUM_LAYERS) for shape in found)
    assert totals.sequence_length == sum(lengths) // len(rows)
    assert totals.kept_length(2) == sum(kept) // len(rows)
    assert totals.actual_seq_length(NUM_LAYERS) == everything // (NUM_LAYERS * len(rows))
    assert totals.kept_length(0) is None


@given(st.lists(st.floats(), max_size=4), st.lists(st.integers(0, 2**62), max_size=3))
def test_numbers_travel_bit_by_bit(losses, agree):
    totals = reduce_step(
        Ranks(), [], num_layers=1, model_shape=None, num_samples=0, loss_sums=losses, agree=agree
    )
    assert all(
        a == b or math.isnan(a) and math.isnan(b)
        for a, b in zip(totals.loss_sums, losses, strict=True)
    )
    assert totals.agreed == tuple(agree)


class OfManyWithoutSums(Ranks):
    """Stands for a thousand processes that all computed the same."""

    def table(self, row):
        return np.array([row] * 1000)


def test_operations_of_large_models_on_many_processes_do_not_wrap_around():
    shape = StepShape(num_rows=1, sequence_length=2**13)
    model = ModelShape(
        num_layers=100,
        hidden_size=2**15,
        query_size=2**15,
        key_value_size=2**15,
        ffn_size=2**17,
        num_ffn_matrices=2,
        vocab_size=2**17,
    )
    totals = reduce_step(
        OfManyWithoutSums(), [shape], num_layers=100, model_shape=model, num_samples=1000
    )
    assert totals.added.flops == 1000 * training_flops(shape, model) > 2**63


def test_rows_that_fill_a_batch_up_are_no_samples():
    totals = reduce_step(Ranks(), [], num_layers=1, model_shape=None, num_samples=8, num_filling=3)
    assert totals.added.consumed_samples == 5


def test_means_are_over_terms_and_none_of_them_is_no_loss():
    assert mean_losses([6.0, 0.0], [3, 0]) == [2.0, 0.0]
    assert mean_losses_over(Ranks(), [6.0, 0.0], [3, 0]) == [2.0, 0.0]
    assert named(3) == {"loss": 3}
    assert named({"a": 1}) == {"a": 1}


def test_what_is_not_finite_is_named():
    refuse_non_finite(1, {"lm": 2.0}, 3.0)
    refuse_non_finite(1, {"lm": 2.0}, None)
    with pytest.raises(
        NonFiniteError, match="step 4: the loss 'lm' is nan and the gradient's norm"
    ):
        refuse_non_finite(4, {"lm": math.nan}, math.inf)


class OfFour(Ranks):
    """Stands for four processes, two of which share each row; their rows of the table follow from this one's."""

    def table(self, row):
        rows = np.array([row, row, row, row])
        # The wish of one process that shares its rows with the one before.
        rows[3, NUM_COUNTS] = 1
        return rows


NUM_COUNTS = 9


def test_of_processes_that_share_rows_one_is_counted_and_all_are_heard():
    ranks = OfFour(world=4, data_parallel_size=2, tensor_parallel_size=2)
    shape = StepShape(num_rows=3, sequence_length=8, num_dropping_layers=2, kept_length=4)
    totals = reduce_step(
        *(ranks, [shape]),
        num_layers=NUM_LAYERS,
        model_shape=None,
        num_samples=6,
        loss_tokens=48,
        loss_sums=[1.5],
        agree=[0],
    )
    assert (totals.num_rows, totals.added.corpus_tokens) == (6, 48)
    assert totals.added.layer_tokens == 2 * 3 * (3 * 8 + 2 * 4)
    assert totals.loss_sums == (3.0,)
    assert totals.agreed == (1,)


def test_means_and_sums_count_rows_once():
    class Of(Ranks):
        def table(self, row):
            return np.array([row, row, row, row])

    ranks = Of(world=4, data_parallel_size=2, tensor_parallel_size=2)
    assert mean_losses_over(ranks, [3.0], [2]) == [1.5]
    assert ranks.sums([5, 7]) == [10, 14]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=7, max_size=7), min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(1, 7)),
    st.booleans(),
)
def test_pairs_in_documents_are_a_brute_force_count(steps, window, slides):
    """Twice the pairs that may look at each other, less those of a token with itself."""
    ids = torch.tensor(steps).cumsum(1)
    shape = StepShape(
        num_rows=len(ids), sequence_length=7, attention_window=window, window_slides=slides
    )
    size = window or 7
    pairs = sum(
        row[query] == row[key] and (query - key < size if slides else query // size == key // size)
        for row in ids.tolist()
        for query in range(7)
        for key in range(query + 1)
    )
    assert pairs_in_documents(ids, shape) == 2 * pairs - ids.numel()


def test_the_attended_share_is_that_of_all_rows_that_tell_documents():
    plain = StepShape(num_rows=2, sequence_length=4)
    told = [StepShape(num_rows=2, sequence_length=4, document_pairs=pairs) for pairs in (20, 32)]
    arguments = {"num_layers": 1, "model_shape": None, "num_samples": 1}
    assert reduce_step(Ranks(), [plain], **arguments).attended_share is None
    assert reduce_step(Ranks(), told, **arguments).attended_share == 52 / 64
