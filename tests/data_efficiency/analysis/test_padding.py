"""Groups hold each sample once and rows hold its tokens."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.padding import groups_by_length, padded_rows


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 120))
def test_groups(lengths, max_padded_tokens):
    lengths = np.array(lengths, dtype=np.int64)
    groups = [group.tolist() for group in groups_by_length(lengths, max_padded_tokens)]
    assert sorted(sum(groups, [])) == list(range(len(lengths)))
    for group in groups:
        assert group
        longest = int(lengths[group].max())
        assert len(group) == 1 or len(group) * longest <= max_padded_tokens
    joined = lengths[sum(groups, [])]
    assert np.all(joined[1:] >= joined[:-1])
    for group, following in zip(groups, groups[1:], strict=False):
        assert (len(group) + 1) * lengths[following[0]] > max_padded_tokens, "as large as allowed"


def test_rows_are_the_samples_with_zeros_behind():
    batch = TokenBatch(
        np.array([7, 8, 9], np.uint16), np.array([1, 3, 0, 0]), np.array([2, 0, 3, 1])
    )
    rows = padded_rows(batch, np.array([3, 0, 1, 2]))
    assert rows.tolist() == [[7, 0, 0], [8, 9, 0], [0, 0, 0], [7, 8, 9]]
    assert rows.dtype == np.uint16
    assert padded_rows(batch, np.array([1, 1])).shape == (2, 0)
    nothing = TokenBatch(np.array([], np.uint16), np.array([0]), np.array([0]))
    assert padded_rows(nothing, np.array([0])).shape == (1, 0)
