import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.study.band import POINTS, band_of
from megatron.study.statistics import estimate


def curve(costs, values):
    return [{"t": t, "value": v} for t, v in zip(costs, values, strict=True)]


@given(st.lists(st.lists(st.floats(-100, 100), min_size=2, max_size=8), min_size=2, max_size=4))
def test_a_band_is_the_estimate_at_each_place(rows):
    curves = [curve(range(len(row)), row) for row in rows]
    band = band_of(curves, "t")
    shortest = min(map(len, rows)) - 1
    assert len(band.places) == POINTS
    assert (band.places[0], band.places[-1]) == (0, shortest)
    for place, mean, half in (
        (0, band.means[0], band.half_widths[0]),
        (shortest, band.means[-1], band.half_widths[-1]),
    ):
        found = estimate([row[place] for row in rows])
        assert mean == pytest.approx(found.mean, abs=1e-9)
        assert half == pytest.approx(found.half_width, abs=1e-6)


def test_one_curve_and_curves_that_share_no_cost_have_no_interval():
    first = curve([1, 2], [5.0, 6.0])
    for curves in ([first], [first, curve([3, 4], [1.0, 1.0])], [first, curve([1], [1.0])]):
        band = band_of(curves, "t")
        assert band.half_widths is None
        assert band.means.tolist() == [5.0, 6.0]
        assert np.array_equal(band.places, [1, 2])
