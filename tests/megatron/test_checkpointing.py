import json

import pytest
import torch
from torch import nn

from megatron.checkpointing import latest_checkpoint, load_weights, read_state, save_checkpoint


def make(width=4):
    model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return model, optimizer


def take_step(model, optimizer, seed):
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    model(rows).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def save(run, step, model, optimizer, keep_last=0):
    return save_checkpoint(
        run, step, module=model, optimizer=optimizer, state={"step": step}, keep_last=keep_last
    )


@pytest.fixture
def saved(tmp_path):
    model, optimizer = make()
    take_step(model, optimizer, 0)
    save(tmp_path, 1, model, optimizer)
    return tmp_path, model, optimizer


def test_training_goes_on_to_the_same_bits(saved):
    run, model, optimizer = saved
    copy, copy_optimizer = make()
    checkpoint = latest_checkpoint(run)
    assert read_state(checkpoint) == {"step": 1}
    load_weights(checkpoint, copy, copy_optimizer)
    for seed in range(1, 4):
        take_step(model, optimizer, seed)
        take_step(copy, copy_optimizer, seed)
    for left, right in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(left, right)
        for key, value in optimizer.state[left].items():
            assert torch.equal(value, copy_optimizer.state[right][key])


def test_saving_twice_gives_the_same_bytes(saved, tmp_path_factory):
    run, model, optimizer = saved
    again = tmp_path_factory.mktemp("again")
    save(again, 1, model, optimizer)
    files = sorted(path.name for path in (run / "global_step1").iterdir())
    assert files == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    for name in files:
        assert (run / "global_step1" / name).read_bytes() == (
            again / "global_step1" / name
        ).read_bytes()


def test_only_the_newest_are_kept(saved):
    run, model, optimizer = saved
    for step in (2, 3, 10):
        save(run, step, model, optimizer, keep_last=2)
    assert sorted(path.name for path in run.glob("global_step*")) == [
        "global_step10",
        "global_step3",
    ]
    assert latest_checkpoint(run).name == "global_step10"


def test_an_unfinished_checkpoint_is_not_seen(saved, monkeypatch):
    run, model, optimizer = saved
    with monkeypatch.context() as patch:
        patch.setattr("megatron.checkpointing.json.dumps", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save(run, 2, model, optimizer)
    assert latest_checkpoint(run).name == "global_step1"
    assert sorted(path.name for path in run.iterdir()) == ["global_step1", "latest"]


def test_no_checkpoint_yet(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_what_cannot_be_continued_from(saved):
    run, _, _ = saved
    checkpoint = run / "global_step1"
    with pytest.raises(ValueError, match="another model shape: 0.weight does not fit"):
        load_weights(checkpoint, make(width=8)[0])
    with pytest.raises(ValueError, match="another model shape"):
        load_weights(checkpoint, nn.Linear(3, 4))
    state = checkpoint / "state.json"
    state.write_text(state.read_text().replace("1", "2"))
    with pytest.raises(ValueError, match=r"state.json was changed .* SHA-256"):
        read_state(checkpoint)
    with (checkpoint / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="truncated or changed; continue from another checkpoint"):
        read_state(checkpoint)
    (checkpoint / "optimizer.safetensors").unlink()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["files"]["model.safetensors"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileNotFoundError, match=r"optimizer.safetensors is missing"):
        read_state(checkpoint)
    (run / "latest").write_text("global_step7\n")
    with pytest.raises(FileNotFoundError, match="names global_step7, .* global_step1"):
        latest_checkpoint(run)
