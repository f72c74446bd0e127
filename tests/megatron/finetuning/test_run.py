import re

import pytest
import torch

from megatron.finetuning.foreign_model import whole_copies
from megatron.finetuning.run import progress_of
from megatron.reporting import read_log
from tests.megatron.finetuning.points import config_of, run_of, train


def test_trains_to_the_end_of_the_budget(tmp_path):
    assert train(run_of(config_of(tmp_path, optimizer="sgd"))) == 0
    log = read_log(tmp_path)
    assert [record["steps"] for record in log.valid] == [0, 4, 6]
    first, _, last = log.valid
    assert (last["steps"], last["samples"], last["corpus_tokens"]) == (6, 24, 96)
    assert (last["layer_tokens"], last["consumed_token"]) == (2 * 96, 96)
    assert last["validation"] == last["test square"] < first["validation"]
    assert last["learning_rate"] == pytest.approx(0.05 / 6)
    assert [record["step"] for record in log.train] == [1, 2, 3, 4, 5, 6]
    assert log.start["measures"][0]["name"] == "test square"
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "run.toml"}


def test_another_run_that_was_stopped_is_refused_before_its_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="the data ends at step 3 before .* raise num_epochs"):
        train(run_of(config_of(tmp_path), num_epochs=1))
    run = run_of(config_of(tmp_path, lr=0.1))
    before = whole_copies(run.engine)["weight"]
    with pytest.raises(ValueError, match=r"of another run: its lr is 0\.05, here 0\.1"):
        train(run)
    assert torch.equal(whole_copies(run.engine)["weight"], before)


def test_out_of_time_it_is_saved_and_goes_on_to_the_same_numbers(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(run_of(config_of(whole))) == 0
    status = train(run_of(config_of(cut, exit_duration_in_mins=0.0)))
    assert status == 75
    assert (cut / "latest").read_text().strip() == "global_step1"
    assert train(run_of(config_of(cut))) == 0
    records = [read_log(folder).valid for folder in (whole, cut)]
    names = ("step", "validation", "training_loss", "learning_rate")
    assert [[r[name] for name in names] for r in records[0]] == [
        [r[name] for name in names] for r in records[1]
    ]
    assert [r["loss"] for r in read_log(cut).train] == [r["loss"] for r in read_log(whole).train]


RECORD = {
    "epoch": 2,
    "micro_batches": 8,
    "steps": 4,
    "consumed_token": 640,
    "corpus_tokens": 700,
    "layer_tokens": 2560,
    "validation": 12.5,
    "best_validation": 12.25,
    "training_loss": None,
    "kept_length": 24,
    "learning_rate": 1e-3,
    "training_seconds": 30.0,
    "all_seconds": 36.0,
}


def test_line_has_the_published_figures_and_a_time_left():
    published, beside = progress_of(RECORD, "perplexity", 0.25).split(" | ")
    assert published == (
        "epoch 2 step 8 consumed_token 640 perplexity 12.5000 best perplexity 12.2500 time 0.0100 hr "
        "reserved_length 24"
    )
    assert re.search(r"25 % done, 1\.8 min left$", beside)
    assert "training loss" not in beside


def test_line_before_the_first_step_and_behind_the_last():
    assert progress_of(RECORD, "perplexity", 0.0).endswith("0 % done, 0.0 min left")
    line = progress_of(RECORD | {"training_loss": 2.0}, "perplexity", 1.02)
    assert line.endswith("100 % done, 0.0 min left")
    assert "optimizer steps 4 training loss 2.0000 lr 1.00e-03 " in line
