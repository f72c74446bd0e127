import json
import os
import sys
import threading

import pytest
import torch
from accelerate import load_checkpoint_in_model
from safetensors.torch import load_file
from torch import nn

from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors
from megatron.checkpoint import saving, shares
from megatron.checkpoint.files import find_checkpoint, read_tensors, read_weights
from megatron.checkpoint.model import identity_of_checkpoint
from megatron.checkpoint.saving import Save, save_checkpoint
from tests.processes import run_python

SHARED = ("stage0", "stage3", "later0", "later3")
FILES = [
    "manifest.json",
    *(f"model-0000{number}-of-00002.safetensors" for number in (1, 2)),
    "model.safetensors.index.json",
    *(f"optimizer-0000{number}-of-00002.safetensors" for number in (1, 2)),
    *("optimizer.safetensors.index.json", "state.json"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of all runs of two processes, and what each found."""
    folder = tmp_path_factory.mktemp("several_writers")
    run_python(
        *("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"),
        *("tests/megatron/checkpoint/several_writers.py", folder),
    )
    return folder, [json.loads((folder / f"found.{rank}.json").read_text()) for rank in (0, 1)]


def sums(tensors):
    return {name: float(tensor.sum()) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", SHARED)
def test_every_process_writes_its_share_of_whole_tensors(written, name):
    folder, founds = written
    checkpoint = folder / name / "global_step1"
    assert sorted(path.name for path in checkpoint.iterdir()) == FILES
    assert find_checkpoint(folder / name).step == 1
    for found in founds:
        assert found[name]["values"] == sums(read_weights(checkpoint))
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    for file in set(index.values()):
        assert set(load_file(checkpoint / file)) == {n for n, at in index.items() if at == file}
    weights, state = read_tensors(checkpoint)
    assert {key.rpartition(".")[0] for key in state} == set(weights)
    # What others have for such folders reads it too.
    model = nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)))
    load_checkpoint_in_model(model, checkpoint / "model.safetensors.index.json")
    assert all(torch.equal(weights[name], one) for name, one in model.state_dict().items())


@pytest.mark.parametrize("name", ["one_file", "stage0", "stage3"])
def test_what_several_wrote_all_read(written, name):
    for found in written[1]:
        assert found[name]["read"] == found[name]["values"]
        assert found[name]["goes_on"]


def test_a_small_model_is_one_file_as_one_process_writes_it(written):
    checkpoint = written[0] / "one_file" / "global_step1"
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        *("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
    ]
    assert json.loads((checkpoint / "manifest.json").read_text())["version"] == 1
    shared = written[0] / "stage3" / "global_step1"
    assert json.loads((shared / "manifest.json").read_text())["version"] == 2
    one, several = (read_tensors(folder) for folder in (checkpoint, shared))
    for left, right in zip(one, several, strict=True):
        assert set(left) == set(right)
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert identity_of_checkpoint(checkpoint) != identity_of_checkpoint(shared)


def test_in_the_background_it_counts_once_it_is_whole(written):
    for found in written[1]:
        for name in ("later0", "later3"):
            assert not found[name]["latest_at_once"]


def test_what_goes_wrong_on_one_process_is_told_by_all_and_changes_nothing(written):
    folder, (first, second) = written
    first, second = first["wrong"], second["wrong"]
    assert first["owner"] == 1
    for name in ("nan", "nan_in_background"):
        assert second[name].startswith("NonFiniteError: 3.bias has numbers that are not finite")
        assert "process 1 could not write its share: see its message" in first[name]
    assert "File too large" in second["full"]
    assert "process 1 could not write its share" in first["full"]
    assert first["names"] == ["global_step1", "latest"]
    assert "file" in first["no_folder"]
    assert "process 0 could not begin a checkpoint" in second["no_folder"]
    assert find_checkpoint(folder / "wrong").step == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / FILES[2]).unlink(),
            "model-00002-of-00002.safetensors is missing",
        ),
        (lambda folder: (folder / FILES[3]).unlink(), "model.safetensors.index.json is missing"),
        (
            lambda folder: (folder / FILES[4]).write_bytes(
                bytes((folder / FILES[4]).stat().st_size)
            ),
            "optimizer-00001-of-00002.safetensors was changed",
        ),
    ],
)
def test_a_damaged_share_is_noticed(written, tmp_path, change, message):
    run = tmp_path / "run"
    (run / "global_step1").mkdir(parents=True)
    for path in (written[0] / "stage0" / "global_step1").iterdir():
        (run / "global_step1" / path.name).write_bytes(path.read_bytes())
    assert find_checkpoint(run).step == 1
    change(run / "global_step1")
    with pytest.raises(ValueError, match=message):
        find_checkpoint(run)


@pytest.mark.skipif(
    sys.platform != "linux", reason="threads have a niceness of their own on Linux only"
)
def test_training_comes_before_the_thread_that_writes(tmp_path, monkeypatch):
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, during = priority(), []
    monkeypatch.setattr(
        "megatron.checkpoint.saving.files.sync_to_disk", lambda path: during.append(priority())
    )
    content = {"weights": whole_tensors({"w": torch.ones(3)}), "optimizer_state": [], "state": {}}
    Save(tmp_path, 1, **content).finish(keep_last=1)
    assert set(during) == {before}
    during.clear()
    Save(tmp_path, 2, **content, in_background=True).finish(keep_last=1)
    assert set(during) == {19}
    assert priority() == before

    def forbidden(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr("megatron.checkpoint.saving.os.setpriority", forbidden)
    saving = Save(tmp_path, 3, **content, in_background=True)
    assert saving.finish(keep_last=1) == tmp_path / "global_step3"


def test_a_thread_writes_what_one_process_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "LEAST_BYTES", 1)
    weight = torch.ones(3)
    content = {"weights": whole_tensors({"w": weight}), "optimizer_state": [], "state": {"a": 1}}
    saving = Save(tmp_path, 1, **content, in_background=True, average=whole_tensors({"w": weight}))
    weight.zero_()
    assert not (tmp_path / "latest").exists()
    assert saving.finish(keep_last=1) == tmp_path / "global_step1"
    assert saving.is_written
    again = save_checkpoint(
        tmp_path / "again",
        1,
        keep_last=0,
        **content | {"weights": whole_tensors({"w": torch.ones(3)})},
        average=whole_tensors({"w": torch.ones(3)}),
    )
    for path in again.iterdir():
        assert (tmp_path / "global_step1" / path.name).read_bytes() == path.read_bytes()


def test_a_tensor_that_cannot_be_gathered_ends_the_save_and_leaves_nothing(tmp_path):
    def lost():
        raise ConnectionError("a process is gone")

    tensors = [
        *whole_tensors({"a": torch.ones(3)}),
        WholeTensor(name="b", shape=(3,), dtype=torch.float32, gather=lost),
    ]
    for in_background in (False, True):
        with pytest.raises(ConnectionError, match="a process is gone"):
            Save(
                *(tmp_path, 1),
                weights=tensors,
                optimizer_state=[],
                state={},
                in_background=in_background,
            )
        assert [*tmp_path.iterdir()] == []


def test_a_full_disk_stops_no_process_in_the_middle_of_gathering(tmp_path, monkeypatch):
    gathered = []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "write_tensor_file", full)
    tensors = [
        WholeTensor(
            name=f"t{number}",
            shape=(1,),
            dtype=torch.float32,
            gather=lambda number=number: gathered.append(number) or torch.ones(1),
        )
        for number in range(9)
    ]
    save = Save(tmp_path, 1, weights=tensors, optimizer_state=[], state={})
    assert gathered == [*range(9)]
    with pytest.raises(OSError, match="No space left on device"):
        save.finish(keep_last=1)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("in_background", [False, True])
def test_whatever_ends_the_thread_is_raised_and_nothing_is_published(
    tmp_path, monkeypatch, in_background
):
    def failed(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(saving, "write_tensor_file", failed)
    content = {"weights": whole_tensors({"w": torch.ones(3)}), "optimizer_state": [], "state": {}}
    save = Save(tmp_path, 1, **content, in_background=in_background)
    with pytest.raises(RuntimeError, match="out of memory"):
        save.finish(keep_last=1)
    assert [*tmp_path.iterdir()] == []
