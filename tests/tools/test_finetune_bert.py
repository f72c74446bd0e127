import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron.reporting import read_log
from tests.megatron.finetuning.bert_task_data import (
    RANDOM_LTD,
    save_bert_run,
    write_lines,
    write_sentiment,
)
from tools.finetune_bert import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def arguments(tmp_path):
    run, data = save_bert_run(tmp_path / "run"), write_sentiment(tmp_path / "data", num_train=16)
    return [
        *("--pretrained", str(run), "--data", str(data), "--save", str(tmp_path / "a")),
        *("--task", "sst2", "--lr", "1e-3", "--epochs", "1", "--max-length", "32"),
        *("--global-batch-size", "8", "--micro-batch-size", "8"),
    ]


def test_its_run_file_repeats_a_run_and_a_finished_one_is_passed_over(tmp_path, arguments, capsys):
    assert main([*arguments, "--log-interval", "1"]) == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"log.jsonl", "run.toml"}
    first = read_log(tmp_path / "a")
    again = ["--config", str(tmp_path / "a" / "run.toml"), "--save", str(tmp_path / "b")]
    assert main(again) == 0
    second = read_log(tmp_path / "b")
    assert [r["loss"] for r in second.train] == [r["loss"] for r in first.train]
    assert second.valid[-1]["dev accuracy"] == first.valid[-1]["dev accuracy"]
    assert first.valid[-1]["flops"] > 0
    capsys.readouterr()
    assert main(again) == 0
    assert "is finished" in capsys.readouterr().out


def test_a_signal_saves_and_75_says_to_start_again(tmp_path, arguments):
    more = ["--epochs", "400", "--log-interval", "1"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools/finetune_bert.py"), *arguments, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    log = tmp_path / "a" / "log.jsonl"
    while not (log.is_file() and log.read_text().count('"kind": "train"') > 3):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    step = int((tmp_path / "a" / "latest").read_text().removeprefix("global_step"))
    assert read_log(tmp_path / "a").train[-1]["step"] == step >= 3


def test_tokens_are_dropped_as_a_file_says(tmp_path, arguments, capsys):
    settings = tmp_path / "ltd.json"
    settings.write_text(json.dumps(RANDOM_LTD))
    assert main([*arguments, "--deepspeed_config", str(settings)]) == 0
    last = read_log(tmp_path / "a").valid[-1]
    assert last["layer_tokens"] < 4 * last["corpus_tokens"]
    assert main(arguments) == 1
    assert "is of another run" in capsys.readouterr().err
    settings.write_text(json.dumps(RANDOM_LTD | {"train_batch_size": 4}))
    assert main([*arguments, "--deepspeed_config", str(settings)]) == 1
    assert "train_batch_size is 4 in" in capsys.readouterr().err


def test_both_development_sets_and_real_values(tmp_path, arguments):
    labels = ("neutral", "entailment")
    rows = [
        {"premise": "good", "hypothesis": f"film {i}", "label": labels[i % 2]} for i in range(4)
    ]
    for part in ("train", "dev_matched", "dev_mismatched"):
        write_lines(tmp_path / "data" / "MNLI" / f"{part}.jsonl", rows)
    pairs = [{"sentence1": "good", "sentence2": "a film", "score": 0.6 + i / 3} for i in range(6)]
    for part in ("train", "dev"):
        write_lines(tmp_path / "data" / "STS-B" / f"{part}.jsonl", pairs)
    for task, names in (
        ("mnli", ["dev_matched accuracy", "dev_mismatched accuracy"]),
        ("stsb", ["dev spearman", "dev pearson"]),
    ):
        folder = tmp_path / task
        assert main([*arguments, "--task", task, "--save", str(folder)]) == 0
        log = read_log(folder)
        assert [one["name"] for one in log.start["measures"]] == names
        assert {*names} <= log.valid[-1].keys()


def test_bad_input_is_one_line(arguments, refused):
    assert main(arguments) == 0
    for more, message in (
        (["--epochs", "2"], "its epochs is 1, here 2"),
        (["--max-length", "64"], "the model has 32 positions"),
        (["--task", "RTE"], "RTE has no train.tsv"),
        (["--config", "reshape"], "is of a gpt_finetuning: start it with examples_deepspeed"),
    ):
        assert message in refused(main, [*arguments, *more])
