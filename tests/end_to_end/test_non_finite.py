"""A number that is not finite reaches no weight and no checkpoint, and the advice that is given works."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import pretrain_gpt
from tests.end_to_end.tiny_runs import composed_flags, training_flags


def train(flags, monkeypatch, *, break_step=None, value=math.inf):
    """The exit code of a run; in one step one element of one gradient is `value`."""
    seen = []

    def forward_step(engine, batch):
        if not seen:
            seen.append(engine)
            weight = engine.module.layers[2].mlp.dense_4h_to_h.weight
            weight.register_hook(
                lambda gradient: (
                    gradient.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(value))
                    if engine.counters.steps == break_step
                    else gradient
                )
            )
        return pretrain_gpt.forward_step(engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_gpt, "TASK", replace(pretrain_gpt.TASK, forward_step=forward_step))
        return pretrain_gpt.main(flags)


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("global_step*"))


@pytest.mark.parametrize(("break_step", "value"), [(4, math.inf), (6, math.nan), (9, -math.inf)])
def test_a_broken_gradient_ends_the_run_before_its_step(
    workspace, composed_config, tmp_path, monkeypatch, capsys, break_step, value
):
    flags = {"train_iters": 10, "save_interval": 2, "keep_last": 0}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = composed_flags(workspace, composed_config, save=whole, **flags)
    assert train(unbroken, monkeypatch) == 0
    same = composed_flags(workspace, composed_config, save=broken, **flags)
    assert train(same, monkeypatch, break_step=break_step, value=value) == 1
    said = capsys.readouterr().err
    assert f"error: step {break_step + 1}: the gradient's norm is " in said
    assert said.endswith(f"--load {broken} with a lower --lr\n")
    last = f"global_step{break_step // 2 * 2}"
    assert set(checkpoints(broken)) == {
        f"global_step{step}" for step in range(2, break_step + 1, 2)
    }
    for name in ("model", "optimizer"):
        found, wanted = (load_file(each / last / f"{name}.safetensors") for each in (broken, whole))
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    # The advice works.
    again = composed_flags(
        workspace, composed_config, save=broken, load=broken, **flags | {"lr": 1e-4}
    )
    assert train(again, monkeypatch) == 0
    steps = [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "train"] == list(range(1, 11))
    assert all(math.isfinite(line["loss"]) for line in steps if "loss" in line)


def test_a_rate_that_blows_the_weights_up_saves_none_of_them(
    workspace, tmp_path, monkeypatch, capsys
):
    flags = {"lr": 1e38, "train_iters": 6, "save": tmp_path / "run", "save_interval": 1}
    assert train(training_flags(workspace, **flags), monkeypatch) == 1
    assert "error: " in capsys.readouterr().err
    for folder in checkpoints(tmp_path / "run"):
        for tensor in load_file(tmp_path / "run" / folder / "model.safetensors").values():
            assert torch.isfinite(tensor).all()


def test_before_the_first_checkpoint_the_advice_is_to_start_again(
    workspace, tmp_path, monkeypatch, capsys
):
    flags = training_flags(workspace, train_iters=4, save=tmp_path / "run")
    assert train(flags, monkeypatch, break_step=1) == 1
    said = capsys.readouterr().err
    assert said.endswith("no checkpoint was written yet: start again with a lower --lr\n")
    assert checkpoints(tmp_path / "run") == []
