import json

import pytest

from benchmarks import finetuning_glue
from benchmarks.finetuning_glue import OURS, PEER, Setting, main, misses, scores_of, table
from megatron.conversion.model import read_any, save_as_hugging_face
from megatron.reporting import read_log
from megatron.tokenizer import build_tokenizer
from tests.megatron.finetuning.bert_task_data import save_bert_run, write_sentiment

GOOD = {
    "RTE": {
        "num_seeds": 3,
        "accuracy": {
            "ours": 60.0,
            "trainer": 60.8,
            "ours_spread": 1.0,
            "trainer_spread": 0.5,
            "majority_class": 51.0,
            "difference": -0.8,
            "standard_error": 0.65,
        },
        "epochs": 3,
    }
}


@pytest.mark.filterwarnings("ignore")
def test_both_sides_are_trained_once(tmp_path, monkeypatch, capsys):
    run = save_bert_run(tmp_path / "run")
    tokenizer = build_tokenizer(tokenizer_file=run / "tokenizer.json")
    save_as_hugging_face(read_any(run), tmp_path / "model", tokenizer)
    write_sentiment(tmp_path / "data", num_train=40)
    setting = Setting(task="SST-2", max_train_examples=24, epochs=2)
    monkeypatch.setattr(finetuning_glue, "SETTINGS", (setting,))
    # The small model has 32 positions only.
    monkeypatch.setattr(finetuning_glue, "MAX_LENGTH", 32)
    flags = {"--model": "model", "--data": "data", "--output": "out"}
    given = [text for name, value in flags.items() for text in (name, str(tmp_path / value))]
    assert main([*given, "--seeds", "1,2"]) == 0
    said = capsys.readouterr().out
    figures = json.loads(said.splitlines()[-1])["SST-2"]
    assert (figures["num_seeds"], figures["num_dev_examples"]) == (2, 40)
    assert figures["accuracy"]["majority_class"] == 50
    assert "| SST-2 | accuracy | 50.00 |" in said
    runs = {side: tmp_path / "out" / side / "SST-2" / "24_2epochs" for side in (OURS, PEER)}
    for side, name in ((OURS, "log.jsonl"), (PEER, "scores.json")):
        assert [path.name for path in sorted(runs[side].iterdir())] == ["seed1", "seed2"]
        assert (runs[side] / "seed1" / name).is_file()
    log = read_log(runs[OURS] / "seed1")
    assert (len(log.valid), log.start["train_samples_in_dataset"]) == (2, 24)
    assert len(json.loads((runs[PEER] / "seed1" / "scores.json").read_text())) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json*")}
    assert main([*given, "--seeds", "1,2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = scores_of(tmp_path / "out", OURS, setting)
    assert list(found) == [1, 2]
    assert scores_of(tmp_path / "out", OURS, Setting(task="SST-2", epochs=2)) == {}


def change(**values):
    return {"RTE": GOOD["RTE"] | {"accuracy": GOOD["RTE"]["accuracy"] | values}}


def test_missed_targets_are_named():
    assert misses(GOOD) == []
    assert misses(change(difference=1.2)) == [
        "RTE: accuracy is +1.2 beside the Trainer's, not within 1.0"
    ]
    assert misses(change(ours=52.0)) == ["RTE: accuracy is +1.0 beside the majority class, not 5.0"]


def test_table():
    assert table(GOOD).splitlines()[2] == (
        "| RTE | accuracy | 51.00 | 60.80 ± 0.50 | 60.00 ± 1.00 | -0.80 (0.65) | 3 |"
    )


def test_unknown_task_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        main(["--model", "m", "--data", "d", "--output", str(tmp_path), "--tasks", "WNLI"])
