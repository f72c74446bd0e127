from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from data_efficiency.accounting import (
    Counters,
    ModelShape,
    StepShape,
    actual_seq_length,
    layer_tokens,
    training_flops,
)

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


def test_counters_add_up_and_name_their_tokens():
    one = Counters(
        steps=1, consumed_samples=2, corpus_tokens=16, loss_tokens=14, layer_tokens=44, flops=9
    )
    two = one.plus(one)
    assert two == Counters(
        steps=2, consumed_samples=4, corpus_tokens=32, loss_tokens=28, layer_tokens=88, flops=18
    )
    assert [two.tokens(name, 4) for name in ("corpus", "loss", "effective")] == [32, 28, 22]
