"""Samples anywhere in some tokens, and what a loop over single samples makes of them."""

import numpy as np
from hypothesis import strategies as st

from data_efficiency.analysis.metrics import TokenBatch


@st.composite
def batches(draw, largest_tokens):
    """Spans anywhere in some tokens: overlapping, empty, out of order, with gaps."""
    tokens = draw(st.lists(st.integers(0, draw(largest_tokens)), max_size=120))
    spans = st.tuples(st.integers(0, len(tokens)), st.integers(0, len(tokens))).map(sorted)
    chosen = draw(st.lists(spans, max_size=12))
    dtype = draw(st.sampled_from(["uint16", "int32", "int64", "uint8"]))
    starts = np.array([first for first, _ in chosen], dtype=np.int64)
    lengths = np.array([last - first for first, last in chosen], dtype=np.int64)
    return TokenBatch(np.array(tokens, dtype=dtype), starts, lengths)


def samples_of(batch):
    return [
        batch.tokens[start : start + length].tolist()
        for start, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)
    ]
