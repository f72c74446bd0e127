import json
import subprocess

import torch

from megatron.checkpoint.provenance import git_commit, provenance


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_what_is_said():
    said = json.loads(
        json.dumps(provenance(engine="torch", num_processes=2, device=torch.device("cpu")))
    )
    assert said["versions"]["torch"] == torch.__version__
    assert set(said["versions"]) >= {"python", "numpy", "safetensors", "data-efficiency"}
    assert "deepspeed" not in said["versions"]
    assert (said["engine"], said["num_processes"], said["device"]) == ("torch", 2, "cpu")
    assert said["num_threads"] == torch.get_num_threads()
    with_deepspeed = provenance(engine="deepspeed", num_processes=1, device=torch.device("cpu"))
    assert with_deepspeed["versions"]["deepspeed"]


def test_the_commit_and_whether_files_were_changed(tmp_path):
    (tmp_path / "file").write_text("a")
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a name that must not stand for the commit")
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "file").write_text("b")
    assert git_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "below").mkdir()
    assert git_commit(tmp_path / "below") is None


def test_no_git_program_is_no_error(tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None
