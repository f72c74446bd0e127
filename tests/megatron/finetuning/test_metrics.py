import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn import metrics

from megatron.finetuning.metrics import accuracy, f1, matthews, pearson, spearman

LENGTHS = st.integers(2, 40)
CLASSES = LENGTHS.flatmap(
    lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 1))] * 2)
)
SCORES = LENGTHS.flatmap(
    lambda n: st.tuples(*[arrays(np.float64, n, elements=st.integers(-20, 20).map(float))] * 2)
)


@given(CLASSES)
def test_two_classes_as_in_scikit_learn(pair):
    predicted, expected = pair
    assert accuracy(predicted, expected) == pytest.approx(metrics.accuracy_score(*pair))
    assert f1(predicted, expected) == pytest.approx(
        metrics.f1_score(expected, predicted, zero_division=0)
    )
    if np.ptp(predicted) == np.ptp(expected) == 0:
        assert matthews(predicted, expected) == 0
        return
    assert matthews(predicted, expected) == pytest.approx(
        metrics.matthews_corrcoef(expected, predicted), abs=1e-9
    )


@given(SCORES)
def test_correlations_as_in_scipy(pair):
    if any(np.ptp(values) == 0 for values in pair):
        assert pearson(*pair) == spearman(*pair) == 0
        return
    assert pearson(*pair) == pytest.approx(stats.pearsonr(*pair)[0], abs=1e-9)
    assert spearman(*pair) == pytest.approx(stats.spearmanr(*pair)[0], abs=1e-9)
