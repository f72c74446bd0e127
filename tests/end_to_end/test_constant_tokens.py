"""Rows that grow longer and fewer: the plan, the counters, a resume, several processes, sharded engines."""

import json

import pytest

import pretrain_gpt
from data_efficiency.config import read_json
from tests.end_to_end.engine_runs import finish, log_lines, start
from tests.end_to_end.test_plan import assert_planned_is_logged
from tests.end_to_end.tiny_runs import SEQ_LENGTH, random_ltd_section, training_flags
from tests.json_sections import length_metric
from tests.processes import run_python


def write_ramp(path):
    metrics = {"seqlen_truncate": length_metric(8, SEQ_LENGTH, steps=12, constant_tokens=True)}
    section = {
        "data_sampling": {"curriculum_learning": {"enabled": True, "curriculum_metrics": metrics}},
        "data_routing": {"random_ltd": random_ltd_section()},
    }
    path.write_text(json.dumps({"data_efficiency": section}))
    return path


def flags_of(workspace, config, folder, **flags):
    switches = {"data_efficiency_curriculum_learning": True, "random_ltd": True}
    return training_flags(workspace, deepspeed_config=config, save=folder, **(switches | flags))


def train_lines(folder):
    return [line for line in log_lines(folder) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def config(workspace):
    return write_ramp(workspace / "constant.json")


@pytest.fixture(scope="module")
def whole(workspace, config):
    """A run in one go, with dropped tokens."""
    folder = workspace / "constant_run"
    assert pretrain_gpt.main(flags_of(workspace, config, folder)) == 0
    return folder


def test_plan_and_log_say_the_same(config, whole):
    content = read_json(config) | {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4}
    samples = log_lines(whole)[0]["train_samples_in_dataset"]
    plan = assert_planned_is_logged(content, whole, num_samples=samples)
    assert {one.shape.sequence_length: one.shape.num_rows for one in plan.stretches} == {
        8: 32,
        16: 16,
        24: 8,
        32: 8,
    }
    corpus = [line["corpus_tokens"] for line in train_lines(whole)]
    assert corpus[0] == corpus[-1] - corpus[-2] == 8 * SEQ_LENGTH


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_resume_goes_on_with_the_rows_of_its_step(workspace, config, whole, tmp_path, processes):
    run = tmp_path / "run"
    first = flags_of(workspace, config, run, train_iters=5, lr_decay_iters=20)
    assert pretrain_gpt.main(first) == 0
    finish(
        start(
            flags_of(workspace, config, run, load=run, micro_batch_size=4 // processes), processes
        )
    )
    names = ("loss", "grad_norm", "consumed_samples", "layer_tokens", "flops")
    own, expected = (
        [[line[name] for name in names] for line in train_lines(folder)] for folder in (run, whole)
    )
    assert len(own) == 20
    if processes == 1:
        assert own == expected
    for one, other in zip(own, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("flags", [{"fsdp": 3}, {"deepspeed": True}])
def test_sharded_it_is_the_same(workspace, config, whole, tmp_path, flags):
    run_python(
        "pretrain_gpt.py",
        *flags_of(workspace, config, tmp_path / "run", train_iters=6, lr_decay_iters=20, **flags),
    )
    names = ("loss", "consumed_samples", "corpus_tokens", "layer_tokens")
    own, expected = (
        [[line[name] for name in names] for line in train_lines(folder)[:6]]
        for folder in (tmp_path / "run", whole)
    )
    for one, other in zip(own, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
