import pytest

from megatron.study.fairness import changes, hidden_differences, undeclared_differences
from tests.megatron.study.simulated import a_result

EXPECTED = {"training": {"seed": 1, "lr": 1e-3, "global_batch_size": None}, "model": {"layers": 4}}


def found(*results, arms=None, may_differ=None):
    expected = {
        (one.arm, one.seed, one.budget): {
            "training": {"seed": one.seed},
            **(arms or {}).get(one.arm, {}),
        }
        for one in results
    }
    return hidden_differences(results, expected, "baseline", may_differ or {})


def test_settings_must_be_those_of_the_file():
    base, other = a_result("baseline", 1, 4.0), a_result("a", 1, 4.0)
    assert found(base, other) == {}
    other.facts["settings"]["training"]["lr"] = 2.0
    assert found(base, other) == {"a": ["settings.training.lr is 2.0, the study's None"]}


def test_what_the_file_leaves_open_may_be_anything_where_it_says_so():
    one = a_result(
        "baseline",
        1,
        4.0,
        settings=EXPECTED | {"training": {**EXPECTED["training"], "global_batch_size": 8}},
    )
    assert hidden_differences([one], {("baseline", 1, 1.0): EXPECTED}, "baseline", {}) == {}


@pytest.mark.parametrize("group", ["checkpoint", "logging"])
def test_where_a_run_is_saved_and_how_it_is_watched_is_free(group):
    base, other = a_result("baseline", 1, 4.0), a_result("a", 1, 4.0)
    other.facts["settings"][group] = {"save": "elsewhere"}
    assert found(base, other) == {}


def test_first_weights_follow_from_the_model_and_from_nothing_else():
    base, other = a_result("baseline", 1, 4.0), a_result("a", 1, 4.0, weights=99)
    assert found(base, other) == {"a": ["weights is 99, the baseline's 1"]}
    model = {"a": {"model": {"num_layers": 2}}}
    other = a_result("a", 1, 4.0, weights=99, settings=model["a"])
    assert found(base, other, arms=model) == {}


def test_an_arm_may_differ_in_what_it_declares():
    base, other = a_result("baseline", 1, 4.0), a_result("a", 1, 4.0, environment={"device": "gpu"})
    assert list(found(base, other)) == ["a"]
    assert found(base, other, may_differ={"a": ["environment.device"]}) == {}


@pytest.mark.parametrize("fact", ["git_commit", "num_threads"])
def test_a_run_may_go_on_at_another_commit_of_the_same_code_and_with_other_threads(fact):
    base = a_result("baseline", 1, 4.0, environment={"code": "x", fact: 1})
    other = a_result("a", 1, 4.0, environment={"code": "x", fact: [1, 2]})
    assert found(base, other) == {}
    other = a_result("a", 1, 4.0, environment={"code": ["x", "y"], fact: 1})
    assert list(found(base, other)) == ["a"]


def test_seeds_of_one_arm_run_on_one_machine():
    seeds = [
        a_result("baseline", 1, 4.0),
        a_result("baseline", 2, 4.0, environment={"device": "b"}),
    ]
    assert found(*seeds) == {"baseline": ["environment.device is 'b', another seed's 'toy'"]}
    assert found(*seeds, may_differ={"a": ["environment.device"]}) != {}
    assert found(*seeds, may_differ={"baseline": ["environment.device"]}) == {}


def test_where_nothing_is_declared_all_is_told():
    base = a_result("baseline", 1, 4.0)
    other = a_result("a", 1, 4.0, settings={"model": {"num_layers": 2}})
    assert undeclared_differences([base, other], "baseline") == {
        "a": ["settings.model.num_layers is 2, the baseline's None"]
    }


def test_changes_are_told_by_name():
    own = {"training": {"lr": 2, "seed": 7}, "checkpoint": {"save": "x"}}
    assert changes(own, {"training": {"lr": 1, "seed": 1}}) == ["`training.lr`: 1 → 2"]
    with_table = {"data_efficiency": {"data_routing": {"enabled": True}}}
    assert changes(with_table, {"data_efficiency": {}}) == ["`data_efficiency.data_routing`: added"]
    assert changes({}, {"engine": {"a": 1}}) == ["`engine`: left out"]
