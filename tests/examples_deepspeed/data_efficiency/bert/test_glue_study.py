"""A real GLUE sweep as a study, on a tiny BERT."""

import json
from pathlib import Path

import pytest

from tests.megatron.finetuning.bert_task_data import save_bert_run, write_lines, write_sentiment
from tools.study import main

EXAMPLES = Path(__file__).resolve().parents[4] / "examples_deepspeed" / "data_efficiency"
GLUE = """
[study]
title = "Tiny GLUE"
base = "{base}"
output = "{folder}/runs"
seeds = [1, 2]
baseline = "slow"
[values]
pretrained = "{folder}/bert"
data = "{folder}/glue"
[each.data]
task = ["SST-2", "mine"]
[arms.slow.training]
lr = 1e-9
[arms.fast.training]
lr = 3e-3
"""
GLUE_BASE = """
base = ["{glue}"]
[data]
max_length = 32
[training]
epochs = 6
global_batch_size = 8
micro_batch_size = 8
"""


@pytest.fixture
def glue(tmp_path):
    """A study of two rates on two tasks that only the larger one learns: 8 runs of some seconds."""
    save_bert_run(tmp_path / "bert")
    write_sentiment(tmp_path / "glue", num_train=40)
    for part, number in (("train", 40), ("dev", 20)):
        rows = [{"text": f"a {w} film", "label": w} for w in ("good", "bad") * (number // 2)]
        write_lines(tmp_path / "glue" / "mine" / f"{part}.jsonl", rows)
    base = tmp_path / "base.toml"
    base.write_text(GLUE_BASE.format(glue=EXAMPLES / "bert" / "finetune" / "glue.toml"))
    path = tmp_path / "study.toml"
    path.write_text(GLUE.format(folder=tmp_path, base=base))
    return path


@pytest.mark.full
def test_glue_is_a_study_with_a_report_a_task(glue, capsys):
    assert main(["run", str(glue), "--parallel", "2"]) == 0
    printed = capsys.readouterr().out
    heads = ["SST-2 (dev accuracy)", "mine (dev accuracy)", "best of each", "chosen by the numbers"]
    assert [text for text in heads if text not in printed] == []
    runs = glue.parent / "runs"
    reports = json.loads((runs / "report.json").read_text())
    assert list(reports) == ["SST-2", "mine"]
    for case, report in reports.items():
        assert report["measure"]["higher_is_better"]
        assert report["changes"] == {"fast": ["`training.lr`: 1e-09 → 0.003"], "slow": []}
        assert report["refused"] == {}
        [one] = report["comparisons"]
        assert (one["seeds"], one["difference"]["mean"] > 0) == ([1, 2], True)
        assert "(higher is better)" in (runs / case / "report.md").read_text()
        assert (runs / case / "report.png").is_file()
    logs = {path: path.stat().st_mtime_ns for path in runs.rglob("log.jsonl")}
    assert len(logs) == 8
    assert main(["run", str(glue), "--parallel", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    assert main(["plan", str(glue)]) == 0
    assert "0 runs are left" in capsys.readouterr().out


def test_a_case_must_be_one_setting_with_values(glue, refused):
    text = glue.read_text()
    for changed, message in (
        ('task = ["SST-2"]\nmax_length = [16]', "must have one table with one setting"),
        ("task = []", "must be a list of values, each once"),
        ('tusk = ["SST-2"]', "the nearest known key is 'task'"),
        ('task = ["a/b"]', "it names a folder"),
    ):
        glue.write_text(text.replace('task = ["SST-2", "mine"]', changed))
        assert message in refused(main, ["status", glue])
