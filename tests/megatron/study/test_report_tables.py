import pytest

from megatron.study.report_tables import format_report
from tests.megatron.study.simulated import a_result, a_study, drawn, listed, report_of, rng_of

ARMS = {"baseline": {}, "renamed": {}, "curriculum": {"data": {"seq_length": 8}}}


@pytest.mark.parametrize(
    ("waited", "shown", "words"),
    [
        ((0.0, 0.0), "1M |", ""),
        ((0.0, 0.3), "1M (1 of 2) |", "a number of seeds"),
        ((0.3, None), "1M* |", "Seconds marked *"),
    ],
)
def test_seconds_say_of_how_many_runs_they_are(waited, shown, words):
    results = [
        a_result(arm, seed, 4.0 + seed / 9) for arm in ("baseline", "renamed") for seed in (1, 2)
    ]
    results[2:] = [
        a_result("renamed", seed, 4.1, waited=w) for seed, w in zip((1, 2), waited, strict=True)
    ]
    text = format_report(report_of(a_study(ARMS), results))
    row, compared = (line for line in text.splitlines() if line.startswith("| renamed | 1 | "))
    assert row.endswith(shown)
    assert words in text
    ratio = {"1M |": "1.000x ± 0.000 |", "1M* |": "1.000x |"}.get(shown, "1.000x (1 of 2) |")
    assert compared.endswith(ratio)
    assert compared.count("1.000x") == (3 if shown == "1M* |" else 4)


def test_every_run_that_was_started_is_listed():
    study = a_study(ARMS)
    results = [a_result("baseline", 1, 4.0)]
    lost = {"arm": "renamed", "seed": 1, "budget": 1.0, "state": "failed"}
    report = report_of(study, results, [*listed(results), lost])
    text = format_report(report)
    assert "- renamed, seed 1, budget 1: failed" in text
    assert "Arm renamed has no finished run." in text


def test_each_control_has_a_table():
    study = a_study(ARMS, beside=("renamed",))
    results = drawn(study, rng_of(3), {"baseline": 0.0, "renamed": -0.5, "curriculum": -0.2})
    text = format_report(report_of(study, results))
    assert "Beside baseline, paired" in text
    assert "Beside renamed, paired" in text


def test_a_refused_arm_is_named():
    study = a_study(ARMS)
    results = [a_result("baseline", 1, 4.0), a_result("renamed", 1, 4.0, weights=9)]
    assert "renamed is not compared" in format_report(report_of(study, results))


def test_a_saving_factor_says_of_how_many_seeds_it_is():
    budgets = {1.0: 4.0, 0.5: 4.3}
    results = [a_result("baseline", 1, loss, budget=part) for part, loss in budgets.items()]
    results += [a_result("baseline", seed, 4.0) for seed in (2, 3)]
    results += [a_result("renamed", seed, 4.3) for seed in (1, 2, 3)]
    text = format_report(report_of(a_study(ARMS), results))
    assert "| renamed | 1 | 0.50x (1 of 3) |" in text
