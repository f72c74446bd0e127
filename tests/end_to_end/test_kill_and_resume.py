"""A run that is killed and continued ends in the same bytes as one that was never stopped."""

import json
import os
import random
import signal
import time

import pytest

from tests.end_to_end import bert_runs, engine_runs
from tests.end_to_end.engine_runs import finish, last_step, log_lines, wait_for_steps
from tests.end_to_end.tiny_runs import composed_flags

NUM_STEPS = 40
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module", params=["gpt", pytest.param("bert", marks=pytest.mark.full)])
def training(request):
    """Script, function of flags, workspace and JSON file of a GPT or a BERT."""
    if request.param == "gpt":
        names = "workspace", "composed_config"
        return "pretrain_gpt.py", composed_flags, *map(request.getfixturevalue, names)
    workspace = request.getfixturevalue("bert_workspace")
    config = bert_runs.write_config(
        workspace / "resumed.json", bert_runs.composed_metrics(workspace), num_workers=2
    )
    return bert_runs.SCRIPT, bert_runs.bert_flags, workspace, config


def start(training, folder, **flags):
    """A running process; its loader workers are in its process group."""
    script, make_flags, workspace, config = training
    settings = {
        "train_iters": NUM_STEPS,
        "hidden_size": 64,  # three megabytes a checkpoint: long enough to be killed in
        "hidden_dropout": 0.1,
        "save_interval": 3,
        "save": folder,
        "load": folder,
        "allow_missing_checkpoint": True,
    }
    return engine_runs.start(make_flags(workspace, config, **settings | flags), script=script)


def result(folder):
    """What a run ends with: weights, optimizer, counters, the place in the data, the log."""
    checkpoint = folder / f"global_step{NUM_STEPS}"
    state = json.loads((checkpoint / "state.json").read_text())
    timing = ("seconds", "step_seconds", "tokens_per_second", "flops_per_second", "waited")
    log = [
        {key: value for key, value in line.items() if key not in timing}
        for line in log_lines(folder)
        if line["kind"] in ("train", "valid")
    ]
    return {
        "model": (checkpoint / "model.safetensors").read_bytes(),
        "optimizer": (checkpoint / "optimizer.safetensors").read_bytes(),
        "engine": state["engine"],
        "log": log,
    }


@pytest.fixture(scope="module")
def unbroken(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    finish(start(training, folder))
    return result(folder)


def continue_to_the_end(training, folder, expected):
    finish(start(training, folder))
    found = result(folder)
    for part, content in expected.items():
        assert found[part] == content, part


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(1, 6))]
)
def test_killed_at_random_steps(training, unbroken, tmp_path, seed):
    generator = random.Random(seed)
    for _ in range(1 if seed == 0 else 2):
        process = start(training, tmp_path)
        target = min(NUM_STEPS - 2, last_step(tmp_path) + generator.randint(1, 15))
        wait_for_steps(tmp_path, [process], target)
        time.sleep(generator.random() / 20)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    continue_to_the_end(training, tmp_path, unbroken)


def test_asked_to_leave_it_saves_first(training, unbroken, tmp_path):
    process = start(training, tmp_path)
    wait_for_steps(tmp_path, [process], 5)
    os.kill(process.pid, signal.SIGTERM)
    output = finish(process, status=75)
    assert "signal SIGTERM" in output
    saved = (tmp_path / "latest").read_text().strip()
    assert saved == f"global_step{last_step(tmp_path)}"
    continue_to_the_end(training, tmp_path, unbroken)
