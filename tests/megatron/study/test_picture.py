import pytest

from megatron.study.picture import _arms, plot_report
from tests.megatron.study.simulated import a_result, a_study, drawn, report_of, rng_of

EFFECTS = {"baseline": 0.0, "other": -0.2}


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)], ids=["lines", "bands"])
def test_a_picture_of_any_number_of_seeds(seeds, tmp_path):
    study = a_study({"baseline": {}, "other": {}}, seeds=seeds)
    results = drawn(study, rng_of(0), EFFECTS)
    plot_report(report_of(study, results), results, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("other", "shown"),
    [((0.25, 0.5), 0.5), ((0.25, 1.0), 1.0), ((2.0,), None)],
    ids=["the largest in common", "the whole", "each its own"],
)
def test_arms_are_drawn_at_one_budget(other, shown):
    """What a study that is not finished shows side by side was trained for the same cost."""
    study = a_study({"baseline": {}, "other": {}, "refused": {}})
    results = [a_result("baseline", 1, 4.0, budget=share) for share in (0.25, 0.5, 1.0)]
    results += [a_result("other", 1, 4.0, budget=share) for share in other]
    results.append(a_result("refused", 1, 4.0, budget=0.125))
    report = report_of(study, results) | {"refused": {"refused": ["x"]}}
    budgets = {arm: {one.budget for one in runs} for arm, runs in _arms(report, results).items()}
    assert budgets == {"baseline": {shown or 1.0}, "other": {shown or 2.0}}


def test_nothing_to_draw_is_said(tmp_path):
    study = a_study({"baseline": {}})
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_report(report_of(study, []), [], tmp_path / "a.png")
