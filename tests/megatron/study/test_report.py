import json
from collections import Counter

import pytest

from megatron.study.picture import plot_report
from megatron.study.report import format_report
from megatron.study.results import read_results, results_as_json
from tests.megatron.study.simulated import a_result, a_study, drawn, listed, report_of, rng_of

CURRICULUM = {"data_efficiency": {"data_sampling": {"enabled": True}}}
ARMS = {"baseline": {}, "renamed": {}, "curriculum": CURRICULUM}


def verdicts(report):
    return {one["arm"]: one["verdict"] for one in report["comparisons"]}


def test_over_200_studies_an_equal_arm_is_called_so_at_the_nominal_rate_and_a_better_one_better():
    study = a_study(ARMS)
    effects = {"baseline": 0.0, "renamed": 0.0, "curriculum": -0.2}
    found = Counter()
    for number in range(200):
        for item in verdicts(report_of(study, drawn(study, rng_of(number), effects))).items():
            found[item] += 1
    wrong = 200 - found["renamed", "undecided"]
    # 10 of 200 are expected at 95 %; 20 or more have a probability of 0.2 %, none one of 0.004 %.
    assert 1 <= wrong < 20
    assert found["curriculum", "better"] == 200


@pytest.mark.parametrize(
    ("where", "hidden"),
    [
        ("settings.training.lr", {"settings": {**CURRICULUM, "training": {"seed": 2, "lr": 1.0}}}),
        ("weights", {"weights": 99}),
        ("environment.device", {"environment": {"device": "another"}}),
        ("data.split", {"data": {"split": "1,1,1"}}),
        (
            "settings.data_efficiency.data_routing",
            {"settings": {"data_efficiency": {"data_routing": 1}}},
        ),
    ],
)
def test_an_arm_with_a_hidden_second_difference_is_refused(where, hidden):
    study = a_study(ARMS)
    effects = {"baseline": 0.0, "renamed": 0.0, "curriculum": -0.2}
    results = drawn(study, rng_of(0), effects)
    [place] = [i for i, one in enumerate(results) if (one.arm, one.seed) == ("curriculum", 2)]
    settings = hidden.pop("settings", CURRICULUM)
    results[place] = a_result("curriculum", 2, 3.8, settings=settings, **hidden)
    report = report_of(study, results)
    assert list(report["refused"]) == ["curriculum"]
    assert any(where in sentence for sentence in report["refused"]["curriculum"])
    assert list(verdicts(report)) == ["renamed"]
    assert "curriculum is not compared" in format_report(report)


def test_an_arm_may_differ_in_what_it_declares():
    study = a_study({"baseline": {}, "small": {"model": {"num_layers": 2}}})
    results = [a_result("baseline", seed, 4.0 + 0.1 * seed, weights=seed) for seed in (1, 2)]
    results += [
        a_result("small", seed, 3.9, settings={"model": {"num_layers": 2}}, weights=-seed)
        for seed in (1, 2)
    ]
    assert report_of(study, results)["refused"] == {}


def test_one_seed_is_undecided_whatever_the_difference():
    study = a_study(ARMS)
    results = [a_result("baseline", 1, 4.0), a_result("renamed", 1, 1.0)]
    report = report_of(study, results)
    assert verdicts(report) == {"renamed": "undecided"}
    assert any("proves nothing" in note for note in report["notes"])


def test_times_taken_beside_other_work_are_marked_and_not_compared():
    study = a_study(ARMS)
    results = [a_result("baseline", seed, 4.0, waited=0.3) for seed in (1, 2)]
    results += [a_result("renamed", seed, 4.0 + seed / 9) for seed in (1, 2)]
    report = report_of(study, results)
    [one] = report["comparisons"]
    assert "seconds" not in one["cost_ratios"]
    assert "flops" in one["cost_ratios"]
    assert "seconds" not in one["saving_factors"]
    table = format_report(report)
    assert "1M*" in table
    assert "Seconds marked *" in table


def test_every_run_that_was_started_is_listed():
    study = a_study(ARMS)
    results = [a_result("baseline", 1, 4.0)]
    lost = {"arm": "renamed", "seed": 1, "budget": 1.0, "state": "failed"}
    report = report_of(study, results, [*listed(results), lost])
    text = format_report(report)
    assert "- renamed, seed 1, budget 1: failed" in text
    assert "Arm renamed has no finished run." in text


def test_controls_are_set_beside_the_others_too():
    study = a_study(ARMS, beside=("renamed",))
    results = drawn(study, rng_of(3), {"baseline": 0.0, "renamed": -0.5, "curriculum": -0.2})
    report = report_of(study, results)
    pairs = {(one["arm"], one["beside"]): one["verdict"] for one in report["comparisons"]}
    assert pairs == {
        ("renamed", "baseline"): "better",
        ("curriculum", "baseline"): "better",
        ("curriculum", "renamed"): "worse",
    }
    text = format_report(report)
    assert "Beside baseline, paired" in text
    assert "Beside renamed, paired" in text


def test_operations_spent_on_scores_count():
    study = a_study(ARMS)
    base = [a_result("baseline", seed, 4.0) for seed in (1, 2)]
    scored = [a_result("renamed", seed, 4.0) for seed in (1, 2)]
    for one in scored:
        one.costs["flops"] += 5e5
    [found] = report_of(study, [*base, *scored])["comparisons"]
    assert found["cost_ratios"]["flops"]["mean"] == 1.5


def test_results_report_and_picture_go_through_files(tmp_path):
    study = a_study(ARMS)
    results = drawn(study, rng_of(3), {"baseline": 0.0, "renamed": 0.0, "curriculum": -0.2})
    lines = tmp_path / "results.jsonl"
    lines.write_text(results_as_json(results))
    again = read_results(lines)
    assert again == results
    report = report_of(study, again)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    plot_report(report, again, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("line", ["{", "[]", '{"arm": "a"}', "null"])
def test_results_that_are_none_are_named(line, tmp_path):
    lines = tmp_path / "results.jsonl"
    lines.write_text(results_as_json([a_result("a", 1, 4.0)]) + line + "\n")
    with pytest.raises(ValueError, match="results.jsonl is damaged or of another form"):
        read_results(lines)
