"""The script that runs studies for so many seconds, with the toy trainer, where no GPU is."""

import os
import subprocess
import sys
import tarfile

import pytest

from tests.tools.test_study import BASE, ROOT, TOY


@pytest.fixture
def study(tmp_path):
    """A study of 12 runs that keeps its results; `nap` is the time that a run's step takes."""

    def write(nap):
        folder = tmp_path / "toy"
        folder.mkdir()
        (folder / "base.toml").write_text(BASE.replace("adam_eps = 0.001", f"adam_eps = {nap}"))
        text = f'[study]\nbase = "base.toml"\nprogram = "{TOY}"\noutput = "runs/toy"\nresults = "kept"\n'
        text += "seeds = [1, 2, 3, 4, 5, 6]\n[arms.baseline]\n[arms.better.training]\nadam_beta2 = 0.5\n"
        (folder / "study.toml").write_text(text)
        return "toy/study.toml"

    return write


def start(tmp_path, study, **environment):
    command = ["bash", str(ROOT / "studies" / "on_gpu.sh"), "logs", study]
    settings = {"PYTHON": sys.executable, "PARALLEL": "2", **environment}
    return subprocess.run(
        command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True
    )


@pytest.mark.full
def test_results_come_back_and_need_not_run_again(study, tmp_path):
    done = start(tmp_path, study("0.001"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Runs: 12 finished." in (tmp_path / "logs" / "toy_study.log").read_text()
    (tmp_path / "toy" / "kept" / "results.jsonl").unlink()
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    with tarfile.open(tmp_path / "logs" / "results.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    assert start(tmp_path, "toy/study.toml").returncode == 0
    assert not [*(tmp_path / "runs").rglob("log.jsonl")]


@pytest.mark.full
def test_when_the_time_is_up_what_has_finished_is_packed_and_the_rest_goes_on(study, tmp_path):
    name = study("0.1")  # a second a run, two at once: six in all
    done = start(tmp_path, name, SECONDS_IN_ALL="4")
    assert done.returncode in (75, 124), done.stdout + done.stderr
    lines = (tmp_path / "toy" / "kept" / "results.jsonl").read_text().splitlines()
    assert len(lines) < 12
    with tarfile.open(tmp_path / "logs" / "results.tar.gz") as packed:
        assert "toy/kept/results.jsonl" in packed.getnames()
    assert start(tmp_path, name).returncode == 0
    assert len((tmp_path / "toy" / "kept" / "results.jsonl").read_text().splitlines()) == 12
