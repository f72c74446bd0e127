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


def test_weights_that_change(workspace, data_path, tmp_path, rows_seen, capsys):
    """The mix stands in the JSON file; what a run reads follows it, and resumes to the same place."""
    mix = {"weights": [[0.7, 0.3], [0.25, 0.75]], "at_samples": [0, 40]}
    content = {"data_efficiency": {"data_sampling": {"mix": mix}}}
    (tmp_path / "mix.json").write_text(json.dumps(content))
    flags = {"deepspeed_config": tmp_path / "mix.json"}
    run(workspace, data_path, tmp_path / "whole", train_iters=10, **flags)
    whole = np.array(rows_seen[True])
    assert [np.count_nonzero(part < 100) for part in (whole[:40], whole[40:])] == [28, 10]
    records = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    last = [one for one in records if one["kind"] == "train"][-1]
    num_first = records[0]["train_samples_in_dataset"]
    assert len(last["part_epochs"]) == 2
    assert 38 / last["part_epochs"][0] + 42 / last["part_epochs"][1] == pytest.approx(num_first)

    rows_seen[True].clear()
    run(workspace, data_path, tmp_path / "parts", train_iters=7, **flags)
    run(workspace, data_path, tmp_path / "parts", train_iters=10, load=tmp_path / "parts", **flags)
    assert rows_seen[True] == whole.tolist()
    mix["between"] = "linear"
    (tmp_path / "mix.json").write_text(json.dumps(content))
    with pytest.raises(AssertionError):
        run(
            workspace,
            data_path,
            tmp_path / "parts",
            train_iters=12,
            load=tmp_path / "parts",
            **flags,
        )
    assert "data.weights.between is 'linear' here and 'constant' there" in capsys.readouterr().err
