"""Batches that grow: the plan, the counters, the rate, a resume, several processes, sharded engines."""

import json
import re

import pytest

import pretrain_gpt
from data_efficiency.config import read_json
from tests.end_to_end.engine_runs import finish, log_lines, start
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.tiny_runs import SEQ_LENGTH, random_ltd_section, training_flags
from tests.json_sections import length_metric
from tests.processes import run_python


def write_growth(path):
    """From 4 samples to 16 over 7 x 32 tokens drawn, beside rows that grow and keep the tokens of a step."""
    metrics = {"seqlen_truncate": length_metric(16, SEQ_LENGTH, steps=4, constant_tokens=True)}
    batches = {
        "min_value": 4,
        "max_value": 16,
        "counter": "tokens",
        "lr_exponent": 0.5,
        "schedule_type": "fixed_discrete",
        "schedule_config": {
            "difficulty": [4, 8, 12, 16],
            "max_step": [15 * SEQ_LENGTH, 47 * SEQ_LENGTH, 63 * SEQ_LENGTH],
        },
    }
    section = {
        "data_sampling": {
            "batch_size": batches,
            "curriculum_learning": {"enabled": True, "curriculum_metrics": metrics},
        },
        "data_routing": {"random_ltd": random_ltd_section()},
    }
    path.write_text(json.dumps({"data_efficiency": section}))
    return path


def flags_of(workspace, config, folder, **flags):
    switches = {"data_efficiency_curriculum_learning": True, "random_ltd": True}
    constant = {"lr_decay_style": "constant", "micro_batch_size": 4}
    return training_flags(
        workspace, deepspeed_config=config, save=folder, **(switches | constant | flags)
    )


def train_lines(folder):
    return [line for line in log_lines(folder) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def config(workspace):
    return write_growth(workspace / "growth.json")


@pytest.fixture(scope="module")
def whole(workspace, config):
    folder = workspace / "growth_run"
    assert pretrain_gpt.main(flags_of(workspace, config, folder)) == 0
    return folder


def test_plan_and_log_say_the_same(config, whole):
    content = read_json(config) | {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    samples = log_lines(whole)[0]["train_samples_in_dataset"]
    assert_planned_is_logged(content, whole, num_samples=samples)
    lines = train_lines(whole)
    rows = [line["step_samples"] // (SEQ_LENGTH // line["sequence_length"]) for line in lines]
    drawn = [0, *(line["consumed_samples"] for line in lines)]
    assert [after - before for before, after in zip(drawn, drawn[1:], strict=False)] == [
        line["step_samples"] for line in lines
    ]
    # 2 x 4 samples of half a row stand for 4 rows.
    assert lines[0]["step_samples"] == 8
    assert rows[:2] == [4, 4]
    assert rows[-1] == 16
    for line, size in zip(lines, rows, strict=True):
        assert line["learning_rate"] == pytest.approx(1e-3 * (size / 8) ** 0.5, rel=1e-12)
    assert {line["learning_rate"] > 1e-3 for line in lines} == {True, False}


def test_a_resume_goes_on_with_the_batch_of_its_step(workspace, config, whole, tmp_path, capsys):
    run = tmp_path / "run"
    assert pretrain_gpt.main(flags_of(workspace, config, run, train_iters=4)) == 0
    assert pretrain_gpt.main(flags_of(workspace, config, run, load=run)) == 0
    names = ("loss", "grad_norm", "learning_rate", "consumed_samples", "layer_tokens", "flops")
    own, expected = (
        [[line[name] for name in names] for line in train_lines(folder)] for folder in (run, whole)
    )
    assert own == expected
    grown = json.loads(config.read_text())
    grown["data_efficiency"]["data_sampling"]["batch_size"]["lr_exponent"] = 1
    other = tmp_path / "other.json"
    other.write_text(json.dumps(grown))
    again = flags_of(workspace, other, tmp_path / "again", load=run, train_iters=30)
    assert pretrain_gpt.main(again) == 1
    assert re.search(r"batch_size\.lr_exponent is 1\S* here and 0.5 there", capsys.readouterr().err)


@pytest.mark.full
@pytest.mark.parametrize(
    "flags", [{}, {"fsdp": 2}, {"fsdp": 3}, {"deepspeed": 1}, {"deepspeed": 2}, {"deepspeed": 3}]
)
def test_a_resume_on_two_processes_is_the_same(workspace, config, whole, tmp_path, flags):
    """DDP, FSDP2 and ZeRO go on from one process's checkpoint, in micro-batches of half the rows."""
    run, plain, config = tmp_path / "run", config, json.loads(config.read_text())
    if stage := flags.get("deepspeed"):
        config["zero_optimization"] = {"stage": int(stage)}
        flags = {"deepspeed": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = {"micro_batch_size": 2, **flags}
    run_python("pretrain_gpt.py", *flags_of(workspace, plain, run, train_iters=4))
    more = flags_of(workspace, tmp_path / "config.json", run, load=run, **settings)
    finish(start(more, 2))
    names = ("loss", "grad_norm", "learning_rate", "consumed_samples", "layer_tokens")
    own, expected = (
        [[line[name] for name in names] for line in train_lines(folder)] for folder in (run, whole)
    )
    assert len(own) == 20
    for one, other in zip(own, expected, strict=True):
        assert one == pytest.approx(other, rel=2e-4)


def test_megatrons_flag(workspace, tmp_path):
    """START INCREMENT SAMPLES as its own calculator counts them."""
    flags = training_flags(workspace, save=tmp_path / "run", micro_batch_size=2)
    assert pretrain_gpt.main([*flags, "--rampup-batch-size", "2", "2", "40"]) == 0
    lines, drawn = train_lines(tmp_path / "run"), 0
    for line in lines:
        size = 8 if drawn > 40 else 2 + 2 * int(drawn / (40 / 3))
        assert line["step_samples"] == size
        drawn += size
        assert line["consumed_samples"] == drawn
    assert {line["step_samples"] for line in lines} == {2, 4, 6, 8}
