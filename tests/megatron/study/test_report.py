import json
from collections import Counter
from dataclasses import replace

import pytest

from megatron.study.picture import plot_report
from megatron.study.results import read_results, results_as_json
from tests.megatron.study.simulated import a_result, a_study, drawn, report_of, rng_of

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


def timed(arm, *, waited=(0.0, 0.0), machines=("a", "a"), loss=4.0, seconds=1.0):
    """Two seeds of an arm, and how their cores were shared."""
    runs = [
        a_result(arm, seed, loss + seed / 9, waited=share, environment={"device_name": machine})
        for seed, share, machine in zip((1, 2), waited, machines, strict=True)
    ]
    for one in runs:
        one.costs["seconds"] *= seconds
    return runs


def compared(*results):
    [one] = report_of(a_study(ARMS), [*results], may_differ=["environment.device_name"])[
        "comparisons"
    ]
    return one


def test_seconds_taken_beside_other_work_are_not_compared():
    one = compared(*timed("baseline", waited=(0.3, 0.3)), *timed("renamed"))
    assert "seconds" not in one["cost_ratios"]
    assert "flops" in one["cost_ratios"]
    assert "seconds" not in one["saving_factors"]


def test_seconds_are_compared_over_the_seeds_whose_runs_both_had_their_cores():
    slow = timed("renamed", waited=(0.0, 0.3), seconds=1.25)
    slow[1].costs["seconds"] *= 100
    one = compared(*timed("baseline"), *slow)
    assert one["cost_ratios"]["seconds"]["mean"] == 1.25
    assert one["cost_ratios"]["seconds"]["num_seeds"] == 1
    assert one["cost_ratios"]["flops"]["num_seeds"] == 2
    assert one["difference"]["num_seeds"] == 2
    never_both = compared(*timed("baseline", waited=(0.3, 0.0)), *slow)
    assert "seconds" not in never_both["cost_ratios"]


def test_seconds_of_two_machines_are_not_compared():
    base, other = timed("baseline"), timed("renamed", machines=("a", "b"), seconds=2.0)
    other[1].costs["seconds"] *= 100
    assert compared(*base, *other)["cost_ratios"]["seconds"]["mean"] == 2.0
    elsewhere = timed("renamed", machines=("b", "b"))
    assert "seconds" not in compared(*base, *elsewhere)["cost_ratios"]


def test_the_saving_in_seconds_is_looked_up_among_those_that_count():
    budgets = {1.0: 4.0, 0.5: 4.3, 0.25: 4.6}
    results = [
        a_result("baseline", seed, loss, budget=part)
        for part, loss in budgets.items()
        for seed in (1, 2)
    ]
    results += [a_result("renamed", seed, 4.3) for seed in (1, 2)]
    for one in results:
        if one.arm == "renamed":
            one.costs["seconds"] *= 2
    starved = [replace(one, waited=0.5) if one.seed == 2 else one for one in results]
    for one in starved:
        if one.seed == 2:
            one.costs["seconds"] = 7.0
    found = compared(*starved)["saving_factors"]
    assert found["seconds"]["factor"] == pytest.approx(found["flops"]["factor"] / 2, rel=1e-6)
    assert (found["seconds"]["num_seeds"], found["flops"]["num_seeds"]) == (1, 2)


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
