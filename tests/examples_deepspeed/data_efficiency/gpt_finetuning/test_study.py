"""A real sweep of a tiny GPT-2 as a study, killed at a random moment."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron.reporting import read_log
from megatron.study import jobs_of, read_study
from tests.end_to_end.killing import kill_all
from tools.study import main

ROOT = Path(__file__).resolve().parents[4]
GPT = """
[study]
base = "{base}"
output = "{folder}/runs"
seeds = [1, 2]
measure = "{measure}"
[arms.baseline.training]
random_ltd = false
[arms.random_ltd]
"""
GPT_BASE = """
base = ["gpt2_random_ltd"]
[model]
pretrained = "{folder}/lm"
num_layers = 4
[data]
text = "{folder}/text.jsonl"
group_rows = 0
separator = true
seq_length = 32
max_train_blocks = 64
max_eval_blocks = 8
num_samples = 64
[training]
epochs = 3
lr = 3e-3
[checkpoint]
save_interval = 2
export = false
[data_efficiency.data_routing.random_ltd.random_ltd_schedule]
min_value = 8
schedule_config = {{ require_steps = 20 }}
"""


@pytest.fixture
def gpt(tmp_path, language_model, text_file):
    """A study of two arms and two seeds of 48 steps each."""
    (tmp_path / "lm").symlink_to(language_model)
    (tmp_path / "text.jsonl").symlink_to(text_file)
    (tmp_path / "base.toml").write_text(GPT_BASE.format(folder=tmp_path))

    def write(measure=""):
        path = tmp_path / "study.toml"
        path.write_text(GPT.format(folder=tmp_path, base="base.toml", measure=measure))
        return path

    return write


def start(path, *flags):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "study.py"), "run", str(path), *flags],
        env=os.environ | {"SWEEP": str(path), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_of_gpt2_goes_on_after_a_kill_to_the_same_report(gpt, tmp_path, capsys):
    path, moments = gpt(), random.Random(3)
    runs = tmp_path / "runs"
    process = start(path, "--parallel", "2")
    while len([*runs.glob("*/seed*/latest")]) < 1 or len([*runs.rglob("log.jsonl")]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(moments.random())
    kill_all(SWEEP=str(path))
    process.wait(timeout=60)
    assert start(path, "--parallel", "2").wait(timeout=300) == 0
    assert any(
        json.loads((job.folder / "job.json").read_text())["attempts"] > 1
        for job in jobs_of(read_study(path))
    )
    report = json.loads((runs / "report.json").read_text())
    assert report["measure"]["name"] == "test perplexity"
    assert not report["measure"]["higher_is_better"]
    assert "test perplexity (lower is better)" in (runs / "report.md").read_text()
    [one] = report["comparisons"]
    assert (one["arm"], one["seeds"]) == ("random_ltd", [1, 2])
    assert one["cost_ratios"]["corpus_tokens"]["mean"] > 1
    assert set(one["others"]) == {"validation perplexity"}
    assert "flops" not in one["cost_ratios"]
    # By hand, without a kill, a run's own file gives the same.
    own = runs / "random_ltd" / "seed2"
    module = ROOT / "examples_deepspeed/data_efficiency/gpt_finetuning/finetune.py"
    again = [sys.executable, str(module), "--config", str(own / "run.toml")]
    subprocess.run(
        [*again, "--save", str(tmp_path / "again")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    logs = [read_log(folder).valid for folder in (own, tmp_path / "again")]
    names = ("step", "training_loss", "validation perplexity", "layer_tokens")
    assert [[v[name] for name in names] for v in logs[0]] == [
        [v[name] for name in names] for v in logs[1]
    ]
    assert main(["report", str(gpt("validation perplexity"))]) == 0
    assert "| validation perplexity (lower is better) |" in capsys.readouterr().out
    assert main(["report", str(gpt("accuracy"))]) == 0
    assert "is not measured by 'accuracy'" in capsys.readouterr().out
