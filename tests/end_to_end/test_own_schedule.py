"""A schedule of one's own, as docs/bring_your_own_model.md registers it: one class, one registration."""

import json
import re
import shutil

import pytest

import pretrain_gpt
from tests.end_to_end.engine_runs import assert_equal_runs, flags_of, log_lines
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.tiny_runs import ROOT, curriculum_section, random_ltd_section

PAGE = (ROOT / "docs" / "bring_your_own_model.md").read_text()


@pytest.fixture(scope="module")
def content(workspace):
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1], {"__name__": __name__})
    doubling = {"schedule_type": "doubling", "schedule_config": {"steps_per_doubling": 3}}
    curriculum, dropping = curriculum_section(workspace), random_ltd_section()
    for metric in curriculum["curriculum_metrics"].values():
        metric |= doubling
    dropping["random_ltd_schedule"] |= doubling
    return {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 4,
        "data_efficiency": {
            "data_sampling": {"curriculum_learning": curriculum},
            "data_routing": {"random_ltd": dropping},
        },
    }


def test_from_the_json_to_plan_log_and_resume(workspace, content, tmp_path):
    config, whole, resumed = (tmp_path / name for name in ("config.json", "whole", "resumed"))
    config.write_text(json.dumps(content))
    assert pretrain_gpt.main(flags_of(workspace, config, whole)) == 0

    assert_planned_is_logged(content, whole)
    logged = [line for line in log_lines(whole) if line["kind"] == "train"]
    lengths = [line["sequence_length"] for line in logged]
    assert lengths == [8, 8, 16, 16, 16] + [32] * 15
    # Token dropping counts the steps finished, so it is a step behind.
    assert [line["kept_length"] for line in logged[:7]] == [4, 4, 4, 8, 8, 8, 16]

    resumed.mkdir()
    shutil.copytree(whole / "global_step10", resumed / "global_step10")
    shutil.copy(whole / "log.jsonl", resumed)
    (resumed / "latest").write_text("global_step10\n")
    assert pretrain_gpt.main(flags_of(workspace, config, resumed, load=resumed)) == 0
    assert_equal_runs(resumed, whole)
    ends = [(run / "global_step20" / "state.json").read_text() for run in (resumed, whole)]
    for part in ("engine", "guarded"):
        assert json.loads(ends[0])[part] == json.loads(ends[1])[part]


def test_a_resume_with_another_course_is_refused(workspace, content, tmp_path, capsys):
    config, folder = tmp_path / "config.json", tmp_path / "run"
    config.write_text(json.dumps(content))
    assert pretrain_gpt.main(flags_of(workspace, config, folder, train_iters=2)) == 0
    config.write_text(json.dumps(content).replace('doubling": 3', 'doubling": 4'))
    assert pretrain_gpt.main(flags_of(workspace, config, folder, load=folder)) == 1
    assert "schedule.steps_per_doubling is 4 here and 3 there" in capsys.readouterr().err
