import json

import pytest

from megatron.run_page.log_tail import LogTail
from megatron.run_page.standing import standing

START = {"kind": "start", "settings": {"training": {"train_iters": 100}}}


def log_of(folder, *records):
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    log = LogTail(folder)
    log.poll()
    return log


def train(step, seconds):
    return {"kind": "train", "step": step, "seconds": seconds}


def test_a_run_in_training_has_a_time_left(tmp_path):
    log = log_of(tmp_path, START, train(10, 4.0), train(20, 8.0))
    found = standing(log, log.changed + 1)
    assert (found["state"], found["fraction"], found["seconds_left"]) == ("training", 0.2, 32.0)


@pytest.mark.parametrize(("gap", "patience"), [(1.0, 60), (100.0, 2000)])
def test_a_log_that_does_not_grow_is_silent_by_its_own_pace(tmp_path, gap, patience):
    log = log_of(tmp_path, START, *(train(step, gap * step) for step in range(1, 6)))
    assert standing(log, log.changed + patience - 1)["state"] == "training"
    found = standing(log, log.changed + patience + 1)
    assert (found["state"], found["seconds_left"]) == ("silent", None)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("--train-iters (100)", "finished"),
        ("the budget", "finished"),
        ("the end of the data (num_epochs)", "finished"),
        ("signal SIGTERM", "stopped"),
        ("--exit-duration-in-mins (3)", "stopped"),
    ],
)
def test_the_end_says_why(tmp_path, reason, state):
    end = {"kind": "end", "step": 100, "reason": reason}
    found = standing(log_of(tmp_path, START, train(90, 1.0), end), 1e12)
    assert (found["state"], found["reason"], found["fraction"]) == (state, reason, 1.0)


def test_a_run_that_has_not_begun_waits_and_one_whose_job_failed_says_so(tmp_path):
    log = LogTail(tmp_path)
    assert standing(log, 0.0)["state"] == "waiting"
    (tmp_path / "job.json").write_text('{"state": "failed"}')
    assert standing(log, 0.0)["state"] == "failed"
    (tmp_path / "job.json").write_text("damaged")
    assert standing(log, 0.0)["state"] == "waiting"


def test_a_run_without_a_known_budget_has_no_fraction(tmp_path):
    log = log_of(tmp_path, {"kind": "start"}, {"kind": "train", "step": 3, "seconds": None})
    found = standing(log, log.changed)
    assert (found["state"], found["fraction"], found["seconds_left"]) == ("training", None, None)
