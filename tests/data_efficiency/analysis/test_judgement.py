import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import DifficultyIndex
from data_efficiency.analysis.judgement import judge, judgement_text, rank_correlation

stats = pytest.importorskip("scipy.stats")
NUMBERS = st.lists(st.integers(0, 9), min_size=3, max_size=40)


def index_of(values):
    return DifficultyIndex.in_memory(
        "m", np.array(values), metric="m", dataset_identity={"type": "list"}, source={}
    )


@given(NUMBERS, st.randoms())
def test_rank_correlation_is_scipy_s(first, random):
    second = [random.randint(0, 9) for _ in first]
    own = rank_correlation(np.array(first), np.array(second))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert np.isnan(own)
    else:
        assert own == pytest.approx(stats.spearmanr(first, second).statistic)


def test_a_metric_that_separates():
    values = np.arange(1000) ** 2
    mixed = np.random.default_rng(1).permutation(1000)
    found = judge(index_of(values), {"length": np.full(1000, 7), "other": mixed + values / 3000})
    assert (found.num_distinct_values, found.largest_share) == (1000, 0.001)
    assert found.middle_half == (250**2, 749**2)
    assert set(found.correlations) == {"other"}
    assert 0.1 < found.correlations["other"] < 0.9
    assert found.warnings == ()
    assert judgement_text(found, 1000).splitlines()[0] == "1,000 samples, 1,000 difficulties"


@pytest.mark.parametrize(
    ("values", "others", "warnings"),
    [
        ([4] * 6, {"length": np.arange(6)}, ["every sample has the difficulty 4"]),
        ([0, 0, 0, 1, 2, 3, 4, 5, 0, 0], {}, ["50 % of the samples have the difficulty 0"]),
        ([0, 1, 2] * 4, {}, ["there are 3 difficulties"]),
        (
            list(range(9)),
            {"length": np.arange(9)},
            ["orders the samples as length (+1.000): pacing"],
        ),
        (list(range(9)), {"a": -np.arange(9)}, ["as a, turned round (-1.000): a does the same"]),
        (
            list(range(9)),
            {"a": np.array([0, 6, 3, 5, 8, 7, 1, 2, 4])},
            ["next to nothing to do with a (+0.0"],
        ),
    ],
)
def test_a_metric_that_does_little(values, others, warnings):
    found = judge(index_of(values), others)
    assert len(found.warnings) == len(warnings)
    for sentence, part in zip(found.warnings, warnings, strict=True):
        assert part in sentence
        assert f"warning: {sentence}" in judgement_text(found, len(values))
