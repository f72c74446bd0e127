import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.accounting import (
    Counters,
    LearningRate,
    ModelShape,
    SkippedRows,
    StepShape,
    actual_seq_length,
    layer_tokens,
    training_flops,
)
from data_efficiency.config import load_config
from tests.json_sections import dropping_config

GPT = ModelShape(
    num_layers=24,
    hidden_size=2048,
    query_size=2048,
    key_value_size=2048,
    ffn_size=8192,
    num_ffn_matrices=2,
    vocab_size=50304,
)
shapes = st.builds(
    StepShape,
    num_rows=st.integers(1, 8),
    sequence_length=st.integers(1, 64),
    num_dropping_layers=st.integers(0, 5),
    kept_length=st.one_of(st.none(), st.integers(1, 64)),
)


@given(shapes)
def test_layer_tokens_equal_a_count_layer_by_layer(shape):
    num_layers, total = 6, 0
    for layer in range(num_layers):
        for _ in range(shape.num_rows):
            drops = layer < shape.num_dropping_layers and shape.kept_length is not None
            total += (
                min(shape.kept_length, shape.sequence_length) if drops else shape.sequence_length
            )
    assert layer_tokens(shape, num_layers) == total


@given(shapes)
def test_actual_seq_length_is_the_published_formula(shape):
    length, num_layers, dropping = shape.sequence_length, 6, shape.num_dropping_layers
    kept = shape.kept_length
    published = length
    if kept is not None and kept < length:
        published = (length * (num_layers - dropping) + kept * dropping) // num_layers
    assert actual_seq_length(shape, num_layers) == published


def test_flops_equal_the_published_formula_for_a_gpt():
    batch, length, layers, hidden, vocab = 4, 2048, 24, 2048, 50304
    expected = 72 * batch * length * layers * hidden**2
    expected *= 1 + length / (6 * hidden) + vocab / (12 * hidden * layers)
    assert training_flops(StepShape(num_rows=batch, sequence_length=length), GPT) == expected


def test_flops_of_dropping_layers_are_those_of_the_kept_length():
    full = StepShape(num_rows=2, sequence_length=64)
    all_dropping = StepShape(num_rows=2, sequence_length=64, num_dropping_layers=24, kept_length=16)
    head = 3 * 2 * 2 * 64 * GPT.hidden_size * GPT.vocab_size
    short = training_flops(replace(full, sequence_length=16), GPT) - head // 4
    assert training_flops(all_dropping, GPT) - head == short
    assert training_flops(replace(all_dropping, kept_length=64), GPT) == training_flops(full, GPT)


def test_flops_of_a_masked_lm_head_are_those_of_the_labelled_positions():
    bert = replace(GPT, masked_lm_head=True)
    rows = StepShape(num_rows=2, sequence_length=64, num_labels=10)
    output = 3 * 2 * GPT.hidden_size * GPT.vocab_size
    layers = training_flops(rows, GPT) - 2 * 64 * output
    dense = 3 * 2 * GPT.hidden_size**2
    assert training_flops(rows, bert) == layers + 10 * (output + dense)
    everywhere = replace(rows, num_labels=None)
    assert training_flops(everywhere, bert) == layers + 2 * 64 * (output + dense)
    assert training_flops(replace(rows, num_labels=0), bert) == layers


def test_counters_add_up_and_name_their_tokens():
    one = Counters(
        steps=1, consumed_samples=2, corpus_tokens=16, loss_tokens=14, layer_tokens=44, flops=9
    )
    two = one.plus(one)
    assert two == Counters(
        steps=2, consumed_samples=4, corpus_tokens=32, loss_tokens=28, layer_tokens=88, flops=18
    )
    clocks = ("steps", "samples", "corpus", "loss", "effective", "layer")
    assert [two.at(clock, 4) for clock in clocks] == [2, 4, 32, 28, 22, 88]


def published_dropping(num_layers, least, most, steps):
    """The finetuning examples' settings of token dropping."""
    content = dropping_config(
        num_layers=num_layers, least=least, most=most, steps=steps, step_size=8
    )
    return load_config(content).data_efficiency.random_ltd


def count(settings, length, num_rows, num_steps, accumulation=1):
    """Counters and rounded effective tokens after each forward pass."""
    counters, effective = Counters(), 0
    for forward in range(num_steps):
        shape = StepShape(
            num_rows=num_rows,
            sequence_length=length,
            num_dropping_layers=settings.random_ltd_layer_num,
            kept_length=settings.schedule.difficulty(forward // accumulation),
        )
        tokens = layer_tokens(shape, settings.total_layer_num)
        counters = counters.plus(Counters(steps=1, layer_tokens=tokens))
        effective += num_rows * actual_seq_length(shape, settings.total_layer_num)
        yield counters, effective


@pytest.mark.parametrize(
    ("num_layers", "final_step", "consumed_tokens"),
    [(12, 1344, 2_148_032), (24, 1373, 2_147_024)],
    ids=["base", "medium"],
)
def test_the_published_gpt2_finetuning_lines(num_layers, final_step, consumed_tokens):
    """Two epochs of 1,048 blocks are the budget; the log's steps are micro-batches, 2 a step."""
    settings = published_dropping(num_layers, least=128, most=1024, steps=400)
    budget = 2 * 1048 * 1024
    totals = count(settings, 1024, num_rows=2, num_steps=2000, accumulation=2)
    counters, consumed = next(total for total in totals if total[1] >= budget)
    assert (counters.steps, consumed) == (final_step, consumed_tokens)


def test_the_published_cifar_line():
    """14 epochs of 391 batches, counted by the JSON's batch size of 32 although 128 were trained."""
    settings = published_dropping(12, least=32, most=197, steps=3910)
    *_, (counters, _) = count(settings, 197, num_rows=32, num_steps=14 * 391)
    assert counters.layer_tokens == 305_784_192


def make(style, **values):
    settings = {
        "peak": 1.0,
        "minimum": 0.1,
        "clock": "steps",
        "warmup": 10,
        "decay": 110,
        "share": 1,
        "anneal": 50,
    }
    return LearningRate(style=style, **(settings | values))


def test_warm_up_is_linear_and_the_first_step_learns():
    rate = make("cosine")
    assert [rate.at(step) for step in range(10)] == [pytest.approx((k + 1) / 10) for k in range(10)]


@pytest.mark.parametrize(
    ("style", "middle", "end"),
    [
        ("linear", 0.55, 0.1),
        ("cosine", 0.55, 0.1),
        ("constant", 1.0, 1.0),
        ("inverse-square-root", math.sqrt(10 / 60), 0.1),
        ("WSD", 1.0, 0.1),
    ],
)
def test_closed_forms(style, middle, end):
    rate = make(style)
    assert rate.at(60) == pytest.approx(middle)
    assert rate.at(110) == pytest.approx(end)
    assert rate.at(10_000) == pytest.approx(end)


@pytest.mark.parametrize(
    ("anneal_style", "halfway"),
    [
        ("linear", 0.5),
        ("cosine", 0.5),
        ("exponential", math.sqrt(2) - 1),
        ("minus_sqrt", 1 - math.sqrt(0.5)),
    ],
)
def test_wsd_keeps_the_peak_and_then_falls_by_its_own_shape(anneal_style, halfway):
    rate = make("WSD", anneal_style=anneal_style)
    assert {rate.at(step) for step in range(10, 61)} == {1.0}
    assert rate.at(85) == pytest.approx(0.1 + 0.9 * halfway)
    assert rate.at(109) > rate.at(110) == 0.1


@given(
    st.sampled_from(["linear", "cosine", "constant", "inverse-square-root", "WSD"]),
    st.integers(0, 50),
    st.integers(50, 100),
)
def test_within_bounds_and_never_rising_after_the_warm_up(style, warmup, more):
    rate = make(style, warmup=warmup, decay=warmup + more)
    values = [rate.at(step) for step in range(200)]
    assert max(values) <= 1.0
    assert min(values[warmup:]) >= 0.1 - 1e-12
    after = values[max(0, warmup - 1) :]
    assert all(left >= right - 1e-12 for left, right in zip(after, after[1:], strict=False))


@given(st.integers(1, 40), st.integers(1, 50), st.booleans())
def test_attended_pairs_are_those_of_a_brute_force_count(length, window, slides):
    """Twice the pairs that may look at each other, less those of a token with itself."""
    shape = StepShape(
        num_rows=3, sequence_length=length, attention_window=window, window_slides=slides
    )
    pairs = [
        (query, key)
        for query in range(length)
        for key in range(query + 1)
        if (query - key < window if slides else query // window == key // window)
    ]
    assert shape.attended_pairs == 2 * len(pairs) - length
    spared = length**2 - shape.attended_pairs
    full = training_flops(replace(shape, attention_window=None), GPT)
    attention = 3 * 3 * GPT.num_layers * 4 * GPT.query_size
    assert full - training_flops(shape, GPT) == attention * spared
    if not slides:
        assert shape.attended_pairs == sum(
            query // window == key // window for query in range(length) for key in range(length)
        )


def test_kept_tokens_lie_evenly_in_the_windows():
    """What is counted for a dropping layer is the mean over random subsets, but for the ends of the sum."""
    length, window, kept = 64, 16, 32
    generator = np.random.default_rng(0)
    counts = [
        np.bincount(generator.permutation(length)[:kept] // window, minlength=4)
        for _ in range(2000)
    ]
    mean = np.mean(np.square(counts).sum(1))
    shape = StepShape(
        num_rows=1,
        sequence_length=length,
        attention_window=window,
        num_dropping_layers=1,
        kept_length=kept,
    )
    one_layer = replace(GPT, num_layers=1, vocab_size=0)
    without = replace(shape, attention_window=None)
    spared = training_flops(without, one_layer) - training_flops(shape, one_layer)
    counted = kept**2 - spared // (3 * 4 * GPT.query_size)
    assert counted == kept**2 * window // length
    assert counted == pytest.approx(mean, rel=0.06)


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_documents_spare_the_pairs_they_do_not_hold(rows, length, kept, skipping):
    """Of whole rows as one document each, nothing; else in proportion in each kind of layer."""
    shape = StepShape(
        num_rows=rows,
        sequence_length=length,
        num_dropping_layers=2,
        kept_length=min(kept, length),
        skipped=(SkippedRows(num_layers=1, num_rows=min(skipping, rows), drops_tokens=False),),
    )
    whole = replace(shape, document_pairs=rows * length**2)
    assert training_flops(whole, GPT) == training_flops(shape, GPT)
    half = replace(shape, document_pairs=rows * length**2 // 2)
    assert half.pairs_in(rows, length) == rows * length**2 // 2
    assert half.pairs_in(rows, min(kept, length)) <= rows * min(kept, length) ** 2 / 2
    assert training_flops(half, GPT) < training_flops(shape, GPT)


def test_factors_hold_from_their_value_of_the_clock_on():
    rate = LearningRate(
        **{"peak": 2.0, "minimum": 0.0, "style": "linear", "clock": "steps", "warmup": 2},
        **{"decay": 10, "share": 1, "factors": ((0.0, 1.0), (5.0, 1.5), (8.0, 0.5))},
    )
    plain = replace(rate, factors=())
    assert [rate.at(step) / plain.at(step) for step in range(10)] == [1.0] * 5 + [1.5] * 3 + [
        0.5
    ] * 2
