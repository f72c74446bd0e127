import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from data_efficiency import Ranks
from megatron.checkpoint.run import held_folder, resume, save
from megatron.config import CheckpointConfig
from tests.megatron.tiny_pretraining import make_run, settings, write_corpus


def test_folders(tmp_path):
    def hold(**names):
        with held_folder(CheckpointConfig(**names), Ranks()) as check:
            check()

    hold()
    hold(save=str(tmp_path / "new" / "run"))
    assert list((tmp_path / "new" / "run").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        hold(save=str(tmp_path / "file" / "run"))
    old = tmp_path / "old"
    (old / "global_step1").mkdir(parents=True)
    (old / "latest").write_text("global_step1\n")
    with pytest.raises(
        ValueError, match="holds another run's checkpoints: continue it with --load"
    ):
        hold(save=str(old))
    hold(save=str(old), load=str(old))
    (tmp_path / "link").symlink_to(old)
    hold(save=str(old), load=str(tmp_path / "link"))
    with (
        held_folder(CheckpointConfig(save=str(tmp_path / "run")), Ranks()),
        pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .* is at work on"),
    ):
        hold(save=str(tmp_path / "run"))


def test_a_checkpoint_written_before_the_engine_counted_goes_on(tmp_path, monkeypatch):
    """Its counters stand beside the engine's progress, which has the step alone."""
    config = settings(write_corpus(tmp_path), "--save", str(tmp_path / "run"))
    run = make_run(config)
    run.engine.train_step(next(run.loader.steps()), run.loss_sums, run.loss_terms)
    save(run)
    folder = tmp_path / "run" / "global_step1"
    state = json.loads((folder / "state.json").read_text())
    state["counters"] = state["engine"].pop("counters")
    state["engine"]["global_steps"] = state["counters"]["steps"]
    (folder / "state.json").write_text(json.dumps(state))
    monkeypatch.setattr("megatron.checkpoint.run.read_state", lambda *_, **__: state)
    monkeypatch.setattr(
        "megatron.checkpoint.engine_state.find_checkpoint",
        lambda _: SimpleNamespace(step=1, problems=[], damaged=[]),
    )
    again = make_run(
        replace(config, checkpoint=replace(config.checkpoint, load=str(tmp_path / "run")))
    )
    assert resume(again)
    assert again.counters == run.counters
    assert again.engine.progress_state() == run.engine.progress_state()
