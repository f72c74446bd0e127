import pytest

from megatron.study.picture import plot_report
from tests.megatron.study.simulated import a_study, drawn, report_of, rng_of

EFFECTS = {"baseline": 0.0, "other": -0.2}


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)], ids=["lines", "bands"])
def test_a_picture_of_any_number_of_seeds(seeds, tmp_path):
    study = a_study({"baseline": {}, "other": {}}, seeds=seeds)
    results = drawn(study, rng_of(0), EFFECTS)
    plot_report(report_of(study, results), results, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_nothing_to_draw_is_said(tmp_path):
    study = a_study({"baseline": {}})
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_report(report_of(study, []), [], tmp_path / "a.png")
