import json

import pytest

from tests.megatron.finetuning.bert_task_data import (
    RANDOM_LTD,
    save_bert_run,
    write_lines,
    write_sentiment,
)
from tools.finetune_bert import main


@pytest.fixture
def arguments(tmp_path):
    run, data = save_bert_run(tmp_path / "run"), write_sentiment(tmp_path / "data", num_train=16)
    return [
        *("--checkpoint", str(run), "--data", str(data), "--output", str(tmp_path / "results")),
        *("--tasks", "sst2", "--seeds", "1,2", "--learning-rates", "1e-3,2e-3"),
        *("--epochs", "1", "--batch-size", "8", "--max-length", "32"),
    ]


def test_a_sweep_goes_on_where_it_was(tmp_path, arguments, capsys):
    folder = tmp_path / "results" / "SST-2"
    assert main([*arguments, "--num-workers", "2", "--worker-id", "1"]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"lr0.001_seed2.json", "lr0.002_seed2.json"}
    first = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "4 runs, 2 of them finished before" in said
    assert "| learning rate | SST-2 (accuracy) | mean |" in said
    assert len(list(folder.iterdir())) == 4
    assert {path: path.stat().st_mtime_ns for path in first} == first
    record = json.loads((folder / "lr0.001_seed1.json").read_text())
    assert record["num_examples"] == {"train": 16, "dev": 40}
    assert list(record["epochs"][0]["dev"]) == ["accuracy"]
    assert main(["--output", str(tmp_path / "results"), "--table"]) == 0
    assert capsys.readouterr().out in said


def test_tokens_are_dropped_as_a_file_says(tmp_path, arguments, capsys):
    settings = tmp_path / "ltd.json"
    settings.write_text(json.dumps(RANDOM_LTD))
    one = [*arguments, "--seeds", "1", "--learning-rates", "1e-3"]
    assert main([*one, "--deepspeed-config", str(settings)]) == 0
    record = json.loads((tmp_path / "results/SST-2/lr0.001_seed1.json").read_text())
    assert record["settings"]["deepspeed_config"] == RANDOM_LTD
    assert main(one) == 1
    assert "its deepspeed_config is " in capsys.readouterr().err
    settings.write_text(json.dumps(RANDOM_LTD | {"train_batch_size": 4}))
    assert main([*one, "--deepspeed-config", str(settings), "--output", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_both_development_sets_and_real_values(tmp_path, arguments, capsys):
    labels = ("neutral", "entailment")
    rows = [
        {"premise": "good", "hypothesis": f"film {i}", "label": labels[i % 2]} for i in range(4)
    ]
    for part in ("train", "dev_matched", "dev_mismatched"):
        write_lines(tmp_path / "data" / "MNLI" / f"{part}.jsonl", rows)
    pairs = [{"sentence1": "good", "sentence2": "a film", "score": 0.6 + i / 3} for i in range(6)]
    for part in ("train", "dev"):
        write_lines(tmp_path / "data" / "STS-B" / f"{part}.jsonl", pairs)
    one = [*arguments, "--tasks", "mnli,stsb", "--seeds", "1", "--learning-rates", "1e-3"]
    assert main(one) == 0
    heading = capsys.readouterr().out.splitlines()[-3]
    assert heading == (
        "| learning rate | STS-B (spearman) | MNLI-matched (accuracy) | MNLI-mismatched (accuracy)"
        " | mean |"
    )
    record = json.loads((tmp_path / "results/STS-B/lr0.001_seed1.json").read_text())
    assert list(record["epochs"][0]["dev"]) == ["spearman", "pearson"]


def test_bad_input_is_one_line(tmp_path, arguments, capsys):
    assert main(arguments) == 0
    capsys.readouterr()
    for more, message in (
        (["--epochs", "2"], "its epochs is 1, here 2"),
        (["--max-length", "64"], "the model has 32 positions"),
        (["--worker-id", "1"], "--worker-id is 1"),
        (["--tasks", "RTE"], "RTE has no train.tsv"),
    ):
        assert main([*arguments, *more]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert main(["--output", str(tmp_path)]) == 1
