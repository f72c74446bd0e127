"""Two corpora blended by weight: what a run reads, and that it resumes to the same place."""

import json
from dataclasses import replace

import numpy as np
import pytest

import pretrain_gpt
from tests.end_to_end.tiny_runs import training_flags, write_two_corpora


@pytest.fixture
def data_path(tmp_path):
    return write_two_corpora(tmp_path)


@pytest.fixture
def rows_seen(monkeypatch):
    """First token of each row of each training forward, and of each evaluation forward."""
    seen, task = {True: [], False: []}, pretrain_gpt.TASK

    def make_model(config):
        model = task.make_model(config)
        model.register_forward_pre_hook(
            lambda module, arguments: seen[module.training].extend(arguments[0][:, 0].tolist())
        )
        return model

    monkeypatch.setattr(pretrain_gpt, "TASK", replace(task, make_model=make_model))
    return seen


def run(workspace, data_path, folder, **flags):
    arguments = training_flags(
        workspace, data_path=None, tokenizer_file=None, split="7,3,0", save=folder, **flags
    )
    assert pretrain_gpt.main(["--data-path", *data_path, *arguments]) == 0
    return json.loads((folder / "log.jsonl").read_text().splitlines()[0])


def test_blended_training_and_resume(workspace, data_path, tmp_path, rows_seen):
    start = run(workspace, data_path, tmp_path / "whole", train_iters=10)
    assert start["settings"]["data"]["data_path"] == data_path
    whole = np.array(rows_seen[True])
    assert len(whole) == 80
    assert np.count_nonzero(whole < 100) == 56
    # The second evaluation's 8 rows, of two micro-batches: in proportion too.
    assert np.count_nonzero(np.array(rows_seen[False][-8:]) < 100) == 6

    rows_seen[True].clear()
    run(workspace, data_path, tmp_path / "parts", train_iters=4)
    run(workspace, data_path, tmp_path / "parts", train_iters=10, load=tmp_path / "parts")
    assert rows_seen[True] == whole.tolist()
