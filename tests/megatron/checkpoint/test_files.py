import errno
import json
import shutil

import pytest
import torch

from data_efficiency.engine.whole_tensor import whole_tensors
from data_efficiency.files.result_folder import OtherVersionError, write_manifest
from megatron.checkpoint import files
from megatron.checkpoint.files import (
    LATEST_FILE,
    FoundCheckpoint,
    checkpoint_folder,
    find_checkpoint,
    has_checkpoints,
    latest_checkpoint,
    read_state,
    read_tensors,
    set_aside,
)
from megatron.checkpoint.saving import save_checkpoint


def make():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(3, 4, generator=generator) for name in ("b.weight", "a.weight")}
    # A transposed tensor, whose numbers do not lie in order.
    weights["c.weight"] = torch.randn(5, 2, generator=generator).t()
    state = {"b.weight.exp_avg": torch.ones(3, 4), "b.weight.step": torch.tensor(3.0)}
    return weights, state


def save(run, step, weights=None, state=None, keep_last=0):
    if weights is None:
        weights, state = make()
    return save_checkpoint(
        run,
        step,
        weights=whole_tensors(weights),
        optimizer_state=whole_tensors(state),
        state={"step": step},
        keep_last=keep_last,
    )


def names_in(run):
    return sorted(path.name for path in run.iterdir())


@pytest.fixture
def saved(tmp_path):
    weights, state = make()
    save(tmp_path, 1, weights, state)
    return tmp_path, weights, state


@pytest.fixture
def run_of_three(tmp_path):
    """A run with checkpoints of the steps 10, 20 and 30; `latest` names the last."""
    for step in (10, 20, 30):
        save(tmp_path, step)
    return tmp_path


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


def test_later_checkpoints_do_not_push_out_those_of_a_run_that_was_set_back(run_of_three):
    save(run_of_three, 12, keep_last=2)
    assert names_in(run_of_three) == [
        *("global_step10", "global_step12", "global_step20", "global_step30", "latest")
    ]
    assert find_checkpoint(run_of_three).step == 12


def test_damaged_ones_do_not_push_out_good_ones(run_of_three):
    (run_of_three / "global_step30" / "state.json").write_text("x")
    set_aside(run_of_three / "global_step30")
    save(run_of_three, 40, keep_last=2)
    assert names_in(run_of_three) == [
        *("global_step20", "global_step30.damaged", "global_step40", "latest")
    ]


def test_what_killed_saves_left_is_removed_by_the_next_save(saved):
    run, weights, state = saved
    for name in (".global_step2.0a1b2c3d.partial", ".global_step1.0a1b2c3d.replaced"):
        shutil.copytree(run / "global_step1", run / name)
    (run / ".other.partial").mkdir()
    (run / ".latest.0a1b2c3d.partial").touch()
    assert find_checkpoint(run).step == 1
    save(run, 3, weights, state)
    assert names_in(run) == [".other.partial", "global_step1", "global_step3", "latest"]


def test_an_old_checkpoint_is_gone_at_once(saved, monkeypatch):
    run, weights, state = saved
    rmtree = shutil.rmtree

    def be_killed(folder, **settings):
        if folder.name.endswith(".replaced"):
            raise ZeroDivisionError
        rmtree(folder, **settings)

    with monkeypatch.context() as patch:
        patch.setattr("data_efficiency.files.result_folder.shutil.rmtree", be_killed)
        with pytest.raises(ZeroDivisionError):
            save(run, 2, weights, state, keep_last=1)
    [hidden, *names] = names_in(run)
    assert hidden.startswith(".global_step1.")
    assert names == ["global_step2", "latest"]
    save(run, 3, weights, state, keep_last=2)
    assert names_in(run) == ["global_step2", "global_step3", "latest"]


def test_a_failed_save_says_so_and_changes_nothing(saved, monkeypatch):
    run, weights, state = saved

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("data_efficiency.files.result_folder.os.fsync", fail)
        message = r"global_step2 could not be written \(Input/output error\); .* --load "
        with pytest.raises(OSError, match=message):
            save(run, 2, weights, state, keep_last=1)
    assert names_in(run) == ["global_step1", "latest"]
    assert find_checkpoint(run).step == 1


def test_no_checkpoint_yet(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert not has_checkpoints(tmp_path)
    assert find_checkpoint(tmp_path).step is None
    assert find_checkpoint(tmp_path / "nowhere").step is None


def test_what_cannot_be_continued_from(saved):
    run, _, _ = saved
    state = run / "global_step1" / "state.json"
    state.write_text(state.read_text().replace("1", "2"))
    with pytest.raises(ValueError, match=r"state.json was changed .* SHA-256"):
        read_state(run / "global_step1")
    (run / "latest").write_text("global_step7\n")
    with pytest.raises(FileNotFoundError, match="names global_step7, .* global_step1"):
        latest_checkpoint(run)


@pytest.mark.parametrize("text", ["../elsewhere", "/tmp", ".", "", "global_step1/../x", "\udcff"])
def test_a_pointer_never_leads_out_of_the_run(saved, text):
    run, _, _ = saved
    shutil.copytree(run / "global_step1", run.parent / "elsewhere", dirs_exist_ok=True)
    (run / "latest").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="latest says '.*', which names no checkpoint; .* global_"):
        latest_checkpoint(run)
    assert find_checkpoint(run).step == 1


def test_every_flipped_bit_of_a_manifest_is_noticed_or_harmless(run_of_three):
    """The newest checkpoint is used as it was written, or an older one is."""
    path = run_of_three / "global_step30" / "manifest.json"
    whole = path.read_bytes()
    for bit in range(3, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        found = find_checkpoint(run_of_three)
        assert found.step == (20 if found.problems else 30)


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def change_manifest(folder, change):
    """Changes a manifest as whoever writes it would: its own checksum is right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    change(manifest)
    write_manifest(folder, manifest)


def damage(change):
    """A damage done to the manifest of a checkpoint of before manifests had checksums."""

    def do(folder):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["sha256"]
        change(manifest)
        path.write_text(json.dumps(manifest))

    return do


DAMAGES = {
    "model.safetensors was changed": lambda folder: flip_a_byte(folder / "model.safetensors"),
    "optimizer.safetensors was changed": lambda folder: flip_a_byte(
        folder / "optimizer.safetensors"
    ),
    "state.json has 4 bytes instead of": lambda folder: (folder / "state.json").write_text(
        "{}\n\n"
    ),
    "model.safetensors is missing": lambda folder: (folder / "model.safetensors").unlink(),
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "is not valid JSON": lambda folder: (folder / "manifest.json").write_text('{"fil'),
    "is not valid JSON (maximum": lambda folder: (folder / "manifest.json").write_text(
        "[" * 99_999
    ),
    "must hold a JSON object, not list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "form (KeyError: 'files')": damage(lambda manifest: manifest.pop("files")),
    "form (AttributeError: ": damage(lambda manifest: manifest.update(files=[])),
    "form (TypeError: list indices": damage(
        lambda manifest: manifest.update(files={"model.safetensors": [1]})
    ),
    "form (KeyError: 'num_bytes')": damage(
        lambda manifest: manifest["files"]["state.json"].pop("num_bytes")
    ),
    "form (TypeError: state.json has no checksum)": damage(
        lambda manifest: manifest["files"]["state.json"].update(sha256=None)
    ),
    "manifest.json was changed after it was written": lambda folder: (
        folder / "manifest.json"
    ).write_text((folder / "manifest.json").read_text().replace('"step": 30', '"step": 31')),
    "does not name optimizer.safetensors": lambda folder: change_manifest(
        folder, lambda manifest: manifest["files"].pop("optimizer.safetensors")
    ),
    "its manifest says format 'index'": lambda folder: change_manifest(
        folder, lambda manifest: manifest.update(format="index")
    ),
    "names global_step30, which is not there": shutil.rmtree,
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(run_of_three, problem):
    DAMAGES[problem](run_of_three / "global_step30")
    found = find_checkpoint(run_of_three)
    assert found.step == 20
    [text] = found.problems
    assert problem in text
    is_there = (run_of_three / "global_step30").exists()
    assert [path.name for path in found.damaged] == ["global_step30"] * is_there
    flip_a_byte(run_of_three / "global_step20" / "model.safetensors")
    assert find_checkpoint(run_of_three).step == 10
    flip_a_byte(run_of_three / "global_step10" / "model.safetensors")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*;.*;.*global_step10"):
        find_checkpoint(run_of_three)


def test_a_run_that_saves_meanwhile_is_looked_at_again(run_of_three, monkeypatch):
    """What was listed is gone when it is looked at, since later checkpoints have taken its place."""
    verify, looked_at = files.verify, []

    def saved_meanwhile(checkpoint):
        looked_at.append(checkpoint.name)
        if len(looked_at) == 1:
            for step in (10, 20, 30):
                checkpoint_folder(run_of_three, step).rename(
                    checkpoint_folder(run_of_three, step + 100)
                )
            (run_of_three / LATEST_FILE).write_text("global_step130\n")
        return verify(checkpoint)

    monkeypatch.setattr(files, "verify", saved_meanwhile)
    assert find_checkpoint(run_of_three) == FoundCheckpoint(step=130)
    assert looked_at == ["global_step30", "global_step130"]


@pytest.mark.parametrize("content", [b"", b"global_st", b"\0" * 20, b"\xff\xfe", b"global_step\n"])
def test_a_torn_pointer(run_of_three, content):
    (run_of_three / "latest").write_bytes(content)
    found = find_checkpoint(run_of_three)
    assert found.step == 30
    assert "which names no checkpoint" in found.problems[0]
    (run_of_three / "latest").unlink()
    found = find_checkpoint(run_of_three)
    assert found.step == 30
    assert "latest is missing" in found.problems[0]
    assert has_checkpoints(run_of_three)


def test_a_torn_pointer_and_nothing_else(tmp_path):
    (tmp_path / "latest").touch()
    with pytest.raises(ValueError, match="says '', which names no checkpoint"):
        find_checkpoint(tmp_path)


def test_a_run_that_was_set_back_stays_there(run_of_three):
    (run_of_three / "latest").write_text("global_step20\n")
    assert find_checkpoint(run_of_three).step == 20
    flip_a_byte(run_of_three / "global_step20" / "state.json")
    assert find_checkpoint(run_of_three).step == 10
    flip_a_byte(run_of_three / "global_step10" / "state.json")
    found = find_checkpoint(run_of_three)
    assert found.step == 30
    assert len(found.problems) == 2


def test_another_version_is_no_damage(run_of_three):
    change_manifest(run_of_three / "global_step30", lambda manifest: manifest.update(version=3))
    with pytest.raises(
        OtherVersionError, match="of version 3, this program reads version 2: update"
    ):
        find_checkpoint(run_of_three)


def test_what_stands_in_the_way_of_a_checkpoint_is_set_aside(run_of_three):
    (run_of_three / "latest").write_text("global_step20\n")
    (run_of_three / "global_step30" / "manifest.json").unlink()
    save(run_of_three, 30)
    assert find_checkpoint(run_of_three).step == 30
    assert (run_of_three / "global_step30.damaged" / "model.safetensors").exists()
