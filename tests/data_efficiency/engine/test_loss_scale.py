import importlib.util
import random
import subprocess
import sys

import pytest

from data_efficiency.engine.loss_scale import LossScale, loss_scale_of
from data_efficiency.json_section import ConfigError, Section

PUBLISHED = {
    "enabled": True,
    "loss_scale": 0,
    "loss_scale_window": 500,
    "hysteresis": 2,
    "min_loss_scale": 1,
    "initial_scale_power": 11,
}

PEER = """
import sys
from deepspeed import comm
from deepspeed.runtime.fp16 import loss_scaler
comm.get_rank = lambda: 1
for line in sys.stdin:
    window, hysteresis, overflows = line.split()
    scaler = loss_scaler.DynamicLossScaler(2.0**20, int(window), 1.0, int(hysteresis), False)
    values = []
    for overflow in overflows:
        scaler.update_scale(overflow == "1")
        values.append(scaler.cur_scale)
    print("RESULT", *values)
"""


def test_the_scale_of_every_step_equals_deepspeeds():
    """Runs DeepSpeed's scaler on random overflows."""
    assert importlib.util.find_spec("deepspeed")
    generator = random.Random(0)
    cases = []
    for _ in range(30):
        rate = generator.choice((0.02, 0.1, 0.3))
        overflows = "".join("01"[generator.random() < rate] for _ in range(60))
        # DeepSpeed and ours both end a run whose scale has reached the minimum.
        overflows = overflows if overflows.count("1") < 20 else "0" * 60
        cases.append((generator.randint(1, 9), generator.randint(1, 3), overflows))
    done = subprocess.run(
        [sys.executable, "-c", PEER],
        input="".join(f"{a} {b} {c}\n" for a, b, c in cases),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(expected) == len(cases)
    for (window, hysteresis, overflows), values in zip(cases, expected, strict=True):
        scale = LossScale(initial=2.0**20, window=window, hysteresis=hysteresis, minimum=1.0)
        found = []
        for overflow in overflows:
            scale.update(overflow == "1")
            found.append(scale.value)
        assert found == [float(value) for value in values]


def test_the_published_section():
    scale = loss_scale_of(Section(PUBLISHED, "fp16"))
    assert scale.value == 2048
    scale.update(True)
    assert scale.value == 2048
    scale.update(True)
    assert scale.value == 1024
    other = loss_scale_of(Section(PUBLISHED, "fp16"))
    other.load_state_dict(scale.state_dict())
    other.update(True)
    assert other.value == 512


def test_a_constant_scale_stays_and_off_is_none():
    scale = loss_scale_of(Section({"enabled": True, "loss_scale": 128}, "fp16"))
    for overflow in (True, False, True):
        scale.update(overflow)
    assert scale.value == 128
    assert loss_scale_of(Section({}, "fp16")) is None


def test_bad_input():
    with pytest.raises(ConfigError, match="consecutive_hysteresis is true: only DeepSpeed"):
        loss_scale_of(Section(PUBLISHED | {"consecutive_hysteresis": True}, "fp16"))
    scale = LossScale(initial=1.0, window=5, hysteresis=1, minimum=1.0)
    with pytest.raises(ValueError, match="overflow at the smallest loss scale"):
        scale.update(True)
