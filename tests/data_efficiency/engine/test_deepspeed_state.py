import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
QUICK = ("0,fp32,client", "0,bf16,client", "2,bf16,client", "3,fp32,client")
# DeepSpeed's own Adam is compiled when it is first used.
FULL = ("1,fp32,client", "1,bf16,client", "3,bf16,client", "0,bf16,Adam", "2,fp32,Adam")


@pytest.mark.parametrize("cases", [QUICK, pytest.param(FULL, marks=pytest.mark.full)])
def test_a_fresh_engine_with_the_whole_state_goes_on_to_the_same_bits(cases):
    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("deepspeed_states.py"), *cases],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    results = dict(json.loads(line.removeprefix("RESULT ")) for line in lines)
    assert list(results) == list(cases), done.stderr
    weights = ("0.bias", "0.weight", "2.bias", "2.weight")
    for case, result in results.items():
        assert result["equal"], case
        assert result["moved"], case
        # In half precision without ZeRO, DeepSpeed's optimizer begins with an empty step of its own.
        assert result["steps"] == [3.0], case
        assert result["decayed_at_start"] == [], case
        # The frozen layer has no state; its weights keep the precision of the model.
        assert result["names"] == [
            f"{name}.{key}" for name in weights for key in ("exp_avg", "exp_avg_sq", "step")
        ], case
        assert "torch.float32" in result["dtypes"], case
