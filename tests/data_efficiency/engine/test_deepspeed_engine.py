"""DeepSpeed's engine as `initialize` gives it; two processes and ZeRO 0-3 are in tests/end_to_end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def extensions(tmp_path_factory):
    """Where torch would put what it compiles."""
    return tmp_path_factory.mktemp("extensions")


@pytest.fixture(scope="module")
def calls(extensions):
    """What deepspeed_calls.py found, in a process of its own: DeepSpeed warns a lot."""
    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["TORCH_EXTENSIONS_DIR"] = str(extensions)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("deepspeed_calls.py")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr
    return json.loads(lines[-1].removeprefix("RESULT "))


def test_it_is_a_deepspeed_engine_with_our_loader(calls):
    assert calls["is_deepspeed"]
    assert calls["training_dataloader"] == "CurriculumDataLoader"
    assert calls["flags"] == [True, True]


def test_nothing_is_compiled_at_the_start(calls, extensions):
    assert calls["losses"]
    assert list(extensions.iterdir()) == []


def test_losses_lengths_and_kept_lengths_are_those_of_plain_pytorch(calls):
    for found, expected in zip(calls["losses"], calls["expected"], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert calls["lengths"] == [6, 8, 10, 12]
    assert calls["kept"] == [2, 2, 4, 6]


def test_the_scheduler_of_the_json_steps_once_a_step(calls):
    assert calls["rates"] == pytest.approx([0.0, 0.001, 0.002, 0.003])


def test_deepspeeds_own_checkpoint_brings_the_place_in_the_data_back(calls):
    assert calls["resumed"] == calls["losses"][2:]
    found, saved = calls["counters"]
    assert found == saved
    # Two steps of 8 rows of 6 and 8 positions, of which two of four layers keep 2.
    assert found["layer_tokens"] == 8 * (2 * 6 + 2 * 2) + 8 * (2 * 8 + 2 * 2)


def test_data_for_evaluation_passes_no_curriculum(calls):
    assert calls["evaluation_lengths"] == [12]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("zero", "refuses the JSON file (DeepSpeedZeroConfig): stge: Extra inputs"),
        ("checkpointing", "nearest known key is 'partition_activations'"),
        ("optimizer", "optimizer.parms is not a known key; the nearest known key is 'params'"),
        ("scheduler", "scheduler.parameters is not a known key"),
        ("pipeline", "a schedule of stages would own the step"),
        ("amp", "NVIDIA Apex AMP integration has been removed"),
        ("operator", "optimizers Lion and Lamb): use AdamW here"),
        ("batch", "train_batch_size is 9, but train_micro_batch_size_per_gpu (4) x"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(calls, section, message):
    assert message in calls["refusals"][section]
