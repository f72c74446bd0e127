from pathlib import Path

import pytest

from data_efficiency import ConfigError
from megatron.study.study_file import RUN_AMOUNTS, filled, read_study, scaled_by
from tests.megatron.study.studies import STUDY, a_study


def test_defaults(tmp_path):
    study = a_study(tmp_path, output=None)
    assert study.output == Path("runs/my_study")
    assert study.program == ""
    assert study.seeds == [1, 2]
    assert study.values == {"output": "runs/my_study"}
    assert study.arms["fast"].settings == {"training": {"lr": 2e-3}}


def test_the_baseline_has_all_budgets_and_the_others_the_whole(tmp_path):
    text = STUDY.replace("seeds = [1, 2]", "budgets = [0.5, 1.0]")
    study = a_study(tmp_path, text + "[arms.long]\nbudgets = [2]\n")
    assert study.arms["baseline"].budgets == [0.5, 1.0]
    assert study.arms["fast"].budgets == (1.0,)
    assert study.arms["long"].budgets == [2]


def test_an_arm_has_the_changes_of_those_it_is_like_and_then_its_own(tmp_path):
    text = STUDY + "[arms.both]\nlike = ['fast']\ntraining.clip_grad = 1.0\n"
    text += "[arms.all]\nlike = ['both']\ntraining.lr = 3e-3\n"
    study = a_study(tmp_path, text)
    assert study.arms["both"].settings == {"training": {"lr": 2e-3, "clip_grad": 1.0}}
    assert study.arms["all"].settings == {"training": {"lr": 3e-3, "clip_grad": 1.0}}


def test_values_of_the_command_line_stand_for_the_files(tmp_path):
    text = STUDY + '[values]\ncorpus = "a"\n'
    assert a_study(tmp_path, text).values["corpus"] == "a"
    assert a_study(tmp_path, text, values={"corpus": "b"}).values["corpus"] == "b"
    with pytest.raises(ConfigError, match=r"\[values\].*corps"):
        a_study(tmp_path, text, values={"corps": "b"})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[[prepare]]\nname = 'a'\n", r"\[\[prepare\]\] 1 lacks makes, command"),
        ("[[prepare]]\nname = 'a'\nmakes = 'b'\ncommand = 'c'\n", "command is 'c': must be a list"),
        ("[arms.'a/b']\n", "arm 'a/b': it names a folder"),
        ("[arms.a]\nscoring_flops = 'many'\n", "scoring_flops is 'many': must be a number"),
        ("[arms.a]\nseeds = []\n", r"seeds of arm 'a' is \[\]"),
        ("[other]\n", "other is not a known key"),
        ("[values]\na = {}\n", r"\[values\]: a is \{\}: must be a text"),
        ('[values]\nseed = "1"\n', r"\[values\] has seed, which is each run's own"),
        ("[prepare]\n", r"prepare is \{\}: must be tables"),
        ("[arms]\na = 1\n", "arms.a is 1: must be a table"),
    ],
)
def test_what_cannot_be_is_refused_by_name(more, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        a_study(tmp_path, STUDY + more)


def test_filled_goes_everywhere_and_leaves_out_what_names_nothing():
    values = {"a": "1", "none": ""}
    assert filled({"x": ["{a}", "--{none}", 3]}, values) == {"x": ["1", 3]}
    assert filled(("{a}{none}", "{b}"), values) == ("{b}",)


def test_a_budget_scales_amounts_to_whole_numbers_of_one_at_least():
    settings = {"a": {"steps": 3, "other": 3}, "steps": 1000, "off": None}
    assert scaled_by(settings, 0.25, ["steps", "off"]) == {
        "a": {"steps": 1, "other": 3},
        "steps": 250,
        "off": None,
    }
    assert scaled_by(settings, 1, ["steps"]) == settings
    assert scaled_by({"epochs": 3.0}, 0.5, ["epochs"]) == {"epochs": 1.5}
    assert scaled_by({"epochs": 3}, 0.5, ["epochs"]) == {"epochs": 2}
    stages = {"max_step": [1, 40, 80], "difficulty": [8, 16, 24, 32]}
    mix = {"at_samples": [0, 64], "weights": [[1, 0], [0, 1]]}
    assert scaled_by({"a": stages, "mix": mix}, 0.25, RUN_AMOUNTS) == {
        "a": {"max_step": [1, 10, 20], "difficulty": [8, 16, 24, 32]},
        "mix": {"at_samples": [0, 16], "weights": [[1, 0], [0, 1]]},
    }


PILOT = '[study]\nlike = "my_study.toml"\nseeds = [9]\n[each.training]\nlr = [1e-3, 2e-3]\n'


def test_a_study_like_another_has_its_arms_and_what_it_does_not_say_itself(tmp_path):
    head = 'title = "T"\nresults = "kept"\nmeasure = "accuracy"\npilot = "pilot.toml"\nbudgets = [0.5]\n'
    text = STUDY.replace("[study]", f"[study]\n{head}") + '[values]\ncorpus = "a"\n'
    (tmp_path / "pilot.toml").write_text(PILOT)
    whole = a_study(tmp_path, text)
    pilot = read_study(tmp_path / "pilot.toml")
    assert (pilot.base, pilot.measure, pilot.budgets) == ("base.toml", "accuracy", [0.5])
    assert (pilot.title, pilot.results, pilot.pilot, pilot.seeds) == ("", None, "", [9])
    assert pilot.output == Path("runs/pilot")
    assert pilot.arms == whole.arms
    assert pilot.values["corpus"] == "a"
    assert [*pilot.cases] == ["0.001", "0.002"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PILOT.replace("my_study", "pilot"), "like is 'pilot.toml': must be another study file"),
        (PILOT.replace('"my_study.toml"', "1"), "like is 1: must be another study file"),
        (PILOT, "like is 'my_study.toml': it is like another itself"),
    ],
)
def test_a_study_is_like_one_that_is_like_none(text, message, tmp_path):
    (tmp_path / "my_study.toml").write_text(STUDY.replace("[study]", '[study]\nlike = "base.toml"'))
    (tmp_path / "pilot.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_study(tmp_path / "pilot.toml")
