"""Two runs never save into one folder: the second is refused, and says who is there."""

import os
import re
import signal

import pytest

from megatron.checkpoint.files import find_checkpoint
from tests.end_to_end.engine_runs import finish, log_lines, start, wait_for_steps
from tests.end_to_end.killing import kill_all
from tests.end_to_end.tiny_runs import training_flags
from tests.processes import run_python

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def run(workspace, tmp_path):
    """A function of flags -> a running training that saves to one folder; all are killed in the end."""
    started = []

    def begin(num_processes=1, **flags):
        # Nobody reads what it prints, and a pipe holds some hundred lines.
        defaults = {"train_iters": 100_000, "save": tmp_path / "run", "save_interval": 10}
        flags = defaults | {"log_interval": 10, "micro_batch_size": 4 // num_processes} | flags
        flags = training_flags(workspace, **flags)
        started.append(start(flags, num_processes, RUN=str(tmp_path)))
        return started[-1]

    yield begin
    kill_all(RUN=str(tmp_path))
    for process in started:
        process.communicate()


def refused(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


def test_the_second_run_is_refused_by_name_and_disturbs_nothing(run, tmp_path):
    folder = tmp_path / "run"
    first = run()
    wait_for_steps(folder, [first], 10)
    names = r"process \d+ on \S+, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, is at work on "
    for flags in ({"load": folder}, {"save": f"{folder}/../run"}):
        line = refused(run(**flags))
        assert re.search(names.replace(", is", " is") + f".*{folder.name}", line), line
        assert f"process {first.pid} on" in line
    # Who only reads is let in.
    finish(run(save=tmp_path / "other", load=folder, train_iters=1))
    wait_for_steps(folder, [first], log_lines(folder)[-1]["step"] + 10)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(120) == 75
    assert find_checkpoint(folder).problems == ()
    steps = [line["step"] for line in log_lines(folder) if line["kind"] == "train"]
    assert steps == list(range(10, find_checkpoint(folder).step + 1, 10))
    assert not (folder / ".run.lock").exists()


def test_what_a_killed_run_leaves_locks_nothing(run, tmp_path):
    first = run()
    wait_for_steps(tmp_path / "run", [first], 20)
    kill_all(RUN=str(tmp_path))
    assert (tmp_path / "run" / ".run.lock").exists()
    finish(run(load=tmp_path / "run", train_iters=1))


@pytest.mark.full
def test_the_orphans_of_a_killed_launcher_are_named(run, tmp_path):
    first = run(num_processes=2)
    wait_for_steps(tmp_path / "run", [first], 10)
    os.kill(first.pid, signal.SIGKILL)
    for num_processes in (1, 2):
        process = run(num_processes, load=tmp_path / "run")
        output, _ = process.communicate(timeout=120)
        assert re.search("error: process [0-9]+ on .* is at work on .*run", output), output
        assert num_processes == 1 or "error: process 0 may not save to" in output
        assert process.returncode == 1


@pytest.mark.full
def test_of_two_that_start_at_once_one_runs(run, tmp_path):
    """20 times: exit codes, and one whole log."""
    for number in range(20):
        folder = tmp_path / f"run{number}"
        both = [run(save=folder, train_iters=10) for _ in range(2)]
        outputs = [process.communicate(timeout=120)[0] for process in both]
        assert sorted(process.returncode for process in both) == [0, 1], outputs
        lost = outputs[[process.returncode for process in both].index(1)]
        assert re.search(
            "error: (process [0-9]+ on .* is at work|--save .* holds another)", lost
        ), lost
        assert [line["kind"] for line in log_lines(folder)] == ["start", "train", "valid", "end"]
        assert find_checkpoint(folder).step == 10


def test_a_run_that_goes_on_elsewhere_or_without_its_log_reports(workspace, tmp_path):
    """With the lines of the run that it continues, where these are there."""
    first, second = tmp_path / "first", tmp_path / "second"

    def train(**flags):
        flags = {"eval_interval": 2, "save_interval": 2, "lr_decay_iters": 9} | flags
        finish(start(training_flags(workspace, **flags)))

    train(save=first, train_iters=4)
    train(load=first, save=second, train_iters=6)
    (first / "log.jsonl").unlink()
    train(load=first, save=first, train_iters=6)
    said = run_python(
        *("tools/report.py", "--run", f"first={first}", "--run", f"second={second}"),
        *("--baseline", "first", "--output", tmp_path / "report", "--no-picture"),
    )
    assert "second" in said
    for folder, steps in ((first, [5, 6]), (second, range(1, 7))):
        kinds = log_lines(folder)
        assert kinds[0]["kind"] == "start"
        assert kinds[0]["settings"]["checkpoint"]["save"] == str(folder)
        assert [line["step"] for line in kinds if line["kind"] == "train"] == list(steps)
