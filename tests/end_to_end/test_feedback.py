"""A run whose samples follow its losses: the log, a resume on other processes, what is refused, and the negative control."""

import json

import pytest

import pretrain_bert
import pretrain_gpt
from tests.end_to_end.bert_runs import bert_flags
from tests.end_to_end.engine_runs import finish, log_lines, start
from tests.end_to_end.tiny_runs import random_ltd_section, training_flags
from tests.json_sections import length_metric
from tests.processes import run_python

FEEDBACK = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 3, "delay_steps": 2}


def write_feedback(path, *, constant_tokens=False, **changes):
    ramp = length_metric(8, 32, steps=8, constant_tokens=constant_tokens)
    metrics = {"seqlen_truncate": ramp}
    section = {
        "data_sampling": {
            "feedback": FEEDBACK | changes,
            "curriculum_learning": {"enabled": True, "curriculum_metrics": metrics},
        },
        "data_routing": {"random_ltd": random_ltd_section()},
    }
    path.write_text(json.dumps({"data_efficiency": section}))
    return path


def flags_of(workspace, config, folder, **flags):
    switches = {"data_efficiency_curriculum_learning": True, "random_ltd": True}
    usual = {"train_iters": 12, "lr_decay_iters": 12, "save_interval": 5, "keep_last": 0}
    return training_flags(
        workspace, deepspeed_config=config, save=folder, **(switches | usual | flags)
    )


def pools(folder):
    return [line["pool_size"] for line in log_lines(folder) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def config(workspace):
    return write_feedback(workspace / "feedback.json")


@pytest.fixture(scope="module")
def whole(workspace, config):
    """A run in one go, with shorter rows and dropped tokens."""
    assert pretrain_gpt.main(flags_of(workspace, config, workspace / "feedback_run")) == 0
    return workspace / "feedback_run"


def test_the_pool_is_half_of_what_has_been_seen(whole):
    # 606 samples; 8 a step; a round knows the losses of the steps up to two before it.
    assert pools(whole) == [606] * 3 + [606 - 8] * 3 + [606 - 20] * 3 + [606 - 32] * 3


def test_rows_that_are_more_while_they_are_short_are_all_followed(workspace, tmp_path):
    config = write_feedback(tmp_path / "config.json", constant_tokens=True)
    flags = flags_of(workspace, config, tmp_path / "run", train_iters=4)
    assert pretrain_gpt.main(flags) == 0
    # Of 32 samples in each of the first two steps a half is left out.
    assert pools(tmp_path / "run") == [606] * 3 + [606 - 32]


@pytest.mark.parametrize(
    ("processes", "share"),
    [(1, 1), *(pytest.param(2, share, marks=pytest.mark.full) for share in (1, 2))],
)
def test_a_resume_goes_on_on_other_processes_too(
    workspace, config, whole, tmp_path, processes, share
):
    """Also where two of them share each row."""
    run = tmp_path / "run"
    assert pretrain_gpt.main(flags_of(workspace, config, run, train_iters=5)) == 0
    flags = flags_of(workspace, config, run, load=run, micro_batch_size=4 * share // processes)
    flags += ["--tensor-model-parallel-size", str(share)]
    finish(start(flags, processes))
    assert pools(run) == pools(whole)
    own, expected = (
        [
            (line["loss"], line["grad_norm"], line["consumed_samples"])
            for line in log_lines(folder)
            if line["kind"] == "train"
        ]
        for folder in (run, whole)
    )
    assert len(own) == 12
    if processes == 1:
        assert own == expected
    for one, other in zip(own, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    "flags", [{"fsdp": 3}, pytest.param({"deepspeed": True}, marks=pytest.mark.full)]
)
def test_sharded_it_is_the_same(workspace, config, whole, tmp_path, flags):
    run_python("pretrain_gpt.py", *flags_of(workspace, config, tmp_path / "run", **flags))
    losses = [
        [line["loss"] for line in log_lines(folder) if line["kind"] == "train"]
        for folder in (whole, tmp_path / "run")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert pools(tmp_path / "run") == pools(whole)


def test_another_feedback_is_another_run(workspace, whole, tmp_path, capsys):
    other = write_feedback(tmp_path / "other.json", kept_share=0.4)
    flags = flags_of(workspace, other, tmp_path / "run", load=whole, train_iters=14)
    assert pretrain_gpt.main(flags) == 1
    assert "feedback.kept_share is 0.4 here and 0.5 there" in capsys.readouterr().err
    assert pretrain_gpt.main([*flags, "--override", "feedback"]) == 0
    assert "samples are drawn as if none had been drawn before" in capsys.readouterr().out


def test_workers_that_read_too_far_ahead_are_refused(workspace, config, tmp_path, capsys):
    assert pretrain_gpt.main(flags_of(workspace, config, tmp_path / "run", num_workers=2)) == 1
    assert "delay_steps is 2, but 2 workers read 2 steps ahead" in capsys.readouterr().err


def test_a_bert_tells_no_losses_of_rows(bert_workspace, tmp_path, capsys):
    path = tmp_path / "bert.json"
    path.write_text(
        json.dumps(
            {"data_efficiency": {"data_sampling": {"feedback": FEEDBACK | {"delay_steps": 9}}}}
        )
    )
    flags = bert_flags(bert_workspace, path, save=tmp_path / "run", random_ltd=None)
    flags = [flag for flag in flags if flag != "--data-efficiency-curriculum-learning"]
    assert pretrain_bert.main(flags) == 1
    assert "0 values were noted for" in capsys.readouterr().err


def test_selective_backpropagation_is_a_control_and_guarded(workspace, tmp_path, capsys):
    def run(folder, **flags):
        usual = {"train_iters": 6, "lr_decay_iters": 6, "save": tmp_path / folder}
        return pretrain_gpt.main(training_flags(workspace, **(usual | flags)))

    assert run("all", selective_backprop=1.0) == run("plain") == 0
    assert run("half", selective_backprop=0.5) == 0
    losses = {
        name: [line["loss"] for line in log_lines(tmp_path / name) if line["kind"] == "train"]
        for name in ("all", "plain", "half")
    }
    assert losses["all"] == pytest.approx(losses["plain"], rel=1e-5)
    # Of each micro-batch the rows with the higher losses.
    assert losses["half"][0] > losses["plain"][0]
    assert run("half", load=tmp_path / "half", selective_backprop=0.25, train_iters=7) == 1
    assert "selective_backprop is 0.25 here and 0.5 there" in capsys.readouterr().err
