"""What two runs must have in common: everything but the time they took."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron.reporting import read_log
from tests.end_to_end.killing import kill_all

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
_TIMES = ("training_seconds", "all_seconds", "seconds", "waited")
OFF = {"random_ltd": False, "data_efficiency_curriculum_learning": False}
TECHNIQUES = {
    "baseline": OFF,
    "random_ltd": {"data_efficiency_curriculum_learning": False},
    "curriculum": {"random_ltd": False},
    "both": {},
}
"""Switches of a recipe that has both."""


class Stopped(Exception):
    """In place of a kill."""


def log_of(folder):
    """The log of the one run under a folder."""
    (path,) = Path(folder).rglob("log.jsonl")
    return read_log(path.parent)


def results_of(folder):
    """Each evaluation of the one run under a folder, without times; the last one has the test part's."""
    log = log_of(folder)
    assert log.end is not None
    return [{k: v for k, v in record.items() if k not in _TIMES} for record in log.valid]


def as_flags(values):
    """A command line of names and values; True and False are switches."""
    arguments = []
    for name, value in values.items():
        flag = name if name == "deepspeed_config" else name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", str(value)]
    return arguments


def small_recipe(recipe, folder, text=""):
    """Path of a run file over a recipe, with more below it."""
    path = folder / f"{recipe.stem}.toml"
    path.write_text(f'base = ["{recipe}"]\n{text}')
    return path


def check_stopped_twice(finetune, flags, folder, monkeypatch, dataset, num_batches):
    """Asserts that a run stopped twice ends with the numbers of one that was not; the second stop is of
    a run that was resumed.
    """
    finetune.main(flags(folder / "whole"))
    for saved_step in (3, 6):
        with monkeypatch.context() as patch:
            stop_after(patch, dataset, num_batches)
            with pytest.raises(Stopped):
                finetune.main(flags(folder / "stopped"))
        (latest,) = (folder / "stopped").rglob("latest")
        assert latest.read_text().strip() == f"global_step{saved_step}"
    finetune.main(flags(folder / "stopped"))
    assert results_of(folder / "stopped") == results_of(folder / "whole")


def check_killed_twice(finetune, flags, folder, *, seed, before, **more):
    """Asserts that a run whose process was killed twice ends with the numbers of one that was not."""
    finetune.main(flags(folder / "whole", eval_interval=1, **more))
    killed = flags(folder / "killed", eval_interval=1, **more)
    kill_at_random_steps(finetune.__name__, killed, seed=seed, num_kills=2, before=before)
    finetune.main(killed)
    assert results_of(folder / "killed") == results_of(folder / "whole")


def check_two_processes(
    finetune, flags, folder, deepspeed, *, exact, before=None, rel=1e-5, **more
):
    """Asserts that two processes compute what one does; killed twice before, both at once, if `before`
    says by which step.
    """
    finetune.main(flags(folder / "one", **more))
    two = flags(folder / "two", deepspeed=deepspeed, **more)
    if before is not None:
        kill_at_random_steps(
            finetune.__name__, two, seed=3, num_kills=2, before=before, launch=LAUNCH
        )
    run_processes(finetune.__name__, two)
    assert log_of(folder / "two").start["num_processes"] == 2
    one, two = results_of(folder / "one"), results_of(folder / "two")
    for name in exact:
        assert one[-1][name] == two[-1][name]
    for here, there in zip(one[1:], two[1:], strict=True):
        assert there["training_loss"] == pytest.approx(here["training_loss"], rel=rel)
        for name in [name for name in here if name.startswith(("validation", "test"))]:
            assert there[name] == pytest.approx(here[name], rel=1e-5)


def stop_after(monkeypatch, owner, num_batches):
    """Lets the data set's `get_batch` raise `Stopped` after so many batches, until it is undone."""
    original, calls = owner.get_batch, []

    def get_batch(self, samples, visits):
        calls.append(1)
        if len(calls) > num_batches:
            raise Stopped
        return original(self, samples, visits)

    monkeypatch.setattr(owner, "get_batch", get_batch)


def command(module, flags, launch=()):
    return [sys.executable, *launch, "-m", module, *map(str, flags)]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_processes(module, flags):
    """Runs a module in two processes; its output if it fails."""
    done = subprocess.run(
        command(module, flags, LAUNCH),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def kill_at_random_steps(module, flags, *, seed, num_kills, before, launch=()):
    """Starts a run `num_kills` times, each time killing all its processes at some moment behind a
    later step; the steps are drawn from 1 to `before` - 1. The run must print a line a step.
    """
    generator = random.Random(seed)
    steps = sorted(generator.sample(range(1, before), num_kills))
    for step in steps:
        mark = {"KILLED_RUN": f"{os.getpid()}/{seed}/{step}"}
        with subprocess.Popen(
            command(module, flags, launch),
            env=environment() | mark,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            lines = []
            try:
                for line in process.stdout:
                    lines.append(line)
                    if f"| optimizer steps {step} " in line:
                        time.sleep(generator.random() / 50)
                        break
            finally:
                kill_all(**mark)
        assert f"| optimizer steps {step} " in lines[-1], "".join(lines)
        assert "End of training" not in "".join(lines)
    return steps


def alone(program, *arguments):
    """What a program prints as JSON where this library and its examples cannot be imported."""
    hidden = (
        "import sys\nsys.modules.update(dict.fromkeys(['data_efficiency', 'examples_deepspeed']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", hidden + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
