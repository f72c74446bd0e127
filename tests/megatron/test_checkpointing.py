import json

import pytest
import torch

from megatron.checkpointing import latest_checkpoint, read_state, read_tensors, save_checkpoint


def make():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(3, 4, generator=generator) for name in ("b.weight", "a.weight")}
    # A transposed tensor, whose numbers do not lie in order.
    weights["c.weight"] = torch.randn(5, 2, generator=generator).t()
    state = {"b.weight.exp_avg": torch.ones(3, 4), "b.weight.step": torch.tensor(3.0)}
    return weights, state


def save(run, step, weights, state, keep_last=0):
    return save_checkpoint(
        run,
        step,
        weights=weights,
        optimizer_state=state,
        state={"step": step},
        keep_last=keep_last,
    )


@pytest.fixture
def saved(tmp_path):
    weights, state = make()
    save(tmp_path, 1, weights, state)
    return tmp_path, weights, state


def test_what_is_saved_comes_back(saved):
    run, weights, state = saved
    checkpoint = latest_checkpoint(run)
    assert read_state(checkpoint) == {"step": 1}
    for given, found in zip((weights, state), read_tensors(checkpoint), strict=True):
        assert set(given) == set(found)
        assert all(torch.equal(given[name], found[name]) for name in given)


def test_saving_twice_gives_the_same_bytes(saved, tmp_path_factory):
    run, weights, state = saved
    again = tmp_path_factory.mktemp("again")
    save(again, 1, weights, state)
    files = sorted(path.name for path in (run / "global_step1").iterdir())
    assert files == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    for name in files:
        assert (run / "global_step1" / name).read_bytes() == (
            again / "global_step1" / name
        ).read_bytes()


def test_only_the_newest_are_kept(saved):
    run, weights, state = saved
    for step in (2, 3, 10):
        save(run, step, weights, state, keep_last=2)
    assert sorted(path.name for path in run.glob("global_step*")) == [
        "global_step10",
        "global_step3",
    ]
    assert latest_checkpoint(run).name == "global_step10"


def test_an_unfinished_checkpoint_is_not_seen(saved, monkeypatch):
    run, weights, state = saved
    with monkeypatch.context() as patch:
        patch.setattr("megatron.checkpointing.json.dumps", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save(run, 2, weights, state)
    assert latest_checkpoint(run).name == "global_step1"
    assert sorted(path.name for path in run.iterdir()) == ["global_step1", "latest"]


def test_no_checkpoint_yet(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_what_cannot_be_continued_from(saved):
    run, _, _ = saved
    checkpoint = run / "global_step1"
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
