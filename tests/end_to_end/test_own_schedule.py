"""A kind of schedule that this project does not know: one class and one registration are enough."""

import json
import shutil
from dataclasses import dataclass

import pytest

import pretrain_gpt
from data_efficiency import ModelShape, Schedule, plan_run, register_schedule
from tests.end_to_end.engine_runs import assert_equal_runs, flags_of, log_lines
from tests.end_to_end.tiny_runs import (
    NUM_LAYERS,
    SEQ_LENGTH,
    curriculum_section,
    random_ltd_section,
)

MODEL = ModelShape(
    num_layers=NUM_LAYERS,
    hidden_size=32,
    query_size=32,
    key_value_size=32,
    ffn_size=128,
    num_ffn_matrices=2,
    vocab_size=512,
)


@dataclass(frozen=True, kw_only=True)
class WavesSchedule(Schedule):
    """The minimum and the maximum by turns, the maximum from the last wave on."""

    min_difficulty: int
    max_difficulty: int
    steps_per_wave: int
    num_waves: int

    def difficulty(self, step):
        wave, place = divmod(step, self.steps_per_wave)
        is_low = wave < self.num_waves and 2 * place < self.steps_per_wave
        return self.min_difficulty if is_low else self.max_difficulty

    def next_change(self, step):
        later = range(step + 1, self.steps_per_wave * self.num_waves + 1)
        return next((s for s in later if self.difficulty(s) != self.difficulty(s - 1)), None)

    def describe(self):
        return f"{self.num_waves} waves of {self.steps_per_wave} steps"


@pytest.fixture(scope="module")
def content(workspace):
    register_schedule("waves", WavesSchedule)
    waves = {
        "schedule_type": "waves",
        "schedule_config": {"steps_per_wave": 6, "num_waves": 2},
    }
    curriculum = curriculum_section(workspace)
    for metric in curriculum["curriculum_metrics"].values():
        metric |= waves
    dropping = random_ltd_section()
    dropping["random_ltd_schedule"] |= waves
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

    plan = plan_run(content, model=MODEL, sequence_length=SEQ_LENGTH, num_steps=20)
    logged = [line for line in log_lines(whole) if line["kind"] == "train"]
    for line in logged:
        shape, step = plan.stretch_at(line["step"]).shape, line["step"]
        assert line["difficulties"] == plan.difficulties(step)
        assert line["pool_size"] == plan.pool_size(step)
        assert line["sequence_length"] == shape.sequence_length
        assert line["kept_length"] == shape.kept_length
        assert line["layer_tokens"] == plan.counters(step).layer_tokens
    lengths = [8, 8, 32, 32, 32, 8, 8, 8, 32]
    assert [line["sequence_length"] for line in logged] == lengths + [32] * 11
    # A pool keeps its running maximum; token dropping counts the steps finished.
    assert [line["pool_size"] for line in logged[:8]] == [60, 60, *[606] * 6]
    assert [line["kept_length"] for line in logged[:4]] == [4, 4, 4, 32]

    resumed.mkdir()
    shutil.copytree(whole / "global_step10", resumed / "global_step10")
    shutil.copy(whole / "log.jsonl", resumed)
    (resumed / "latest").write_text("global_step10\n")
    assert pretrain_gpt.main(flags_of(workspace, config, resumed, load=resumed)) == 0
    assert_equal_runs(resumed, whole)
    states = [
        json.loads((run / "global_step20" / "state.json").read_text()) for run in (resumed, whole)
    ]
    assert states[0]["engine"] == states[1]["engine"]
    assert states[0]["guarded"] == states[1]["guarded"]


def test_a_resume_with_another_course_is_refused(workspace, content, tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(content))
    folder = tmp_path / "run"
    assert pretrain_gpt.main(flags_of(workspace, config, folder, train_iters=2)) == 0
    config.write_text(json.dumps(content).replace('"num_waves": 2', '"num_waves": 3'))
    assert pretrain_gpt.main(flags_of(workspace, config, folder, load=folder)) == 1
    assert "schedule.num_waves is 3 here and 2 there" in capsys.readouterr().err
