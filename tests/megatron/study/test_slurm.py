import pytest

from megatron.study.slurm import requeue_this_task, submit_study


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Stand-ins for SLURM's commands that write down how they are called; the real ones: tests/slurm."""
    calls = tmp_path / "calls"
    for name, body in (
        (
            "sbatch",
            'cat >>"$0.scripts"; n=$(grep -c ^sbatch "{calls}"); [ "$n" = "$FAIL" ] && exit 1; echo "$n;here"',
        ),
        ("scontrol", 'echo "MaxArraySize = 6"'),
        ("scancel", ":"),
    ):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >>"{calls}"\n' + body.format(calls=calls) + "\n"
        )
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return calls


def submitted(tmp_path, **more):
    settings = {"num_workers": 12, "parallel": 2, "prepares": True, "flags": ["--partition=x"]}
    return submit_study(["a study.toml"], logs=tmp_path / "logs", **settings | more)


def test_stages_then_as_many_workers_as_the_cluster_allows_then_the_report(cluster, tmp_path):
    assert submitted(tmp_path) == ["1", "2", "3"]
    _, prepare, work, report = cluster.read_text().splitlines()
    assert "--dependency" not in prepare
    assert "--array=0-5 --signal=B:USR1@120 --requeue" in work
    assert "--dependency=afterok:1 --kill-on-invalid-dep=yes" in work
    assert "--dependency=afterany:2" in report
    assert all("--partition=x" in call for call in (prepare, work, report))
    scripts = (tmp_path / "bin" / "sbatch.scripts").read_text()
    assert "tools/study.py work 'a study.toml' --parallel 2" in scripts
    assert scripts.count("exec ") == 3


def test_nothing_stays_queued_where_one_is_refused(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "3")
    with pytest.raises(OSError, match="sbatch .* ended with"):
        submitted(tmp_path)
    assert [line for line in cluster.read_text().splitlines() if "scancel" in line] == [
        "scancel 1",
        "scancel 2",
    ]


def test_no_slurm_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="scontrol is not here: --slurm needs"):
        submitted(tmp_path)


def test_a_task_of_an_array_requeues_itself_alone(cluster):
    assert not requeue_this_task({})
    assert requeue_this_task({"SLURM_JOB_ID": "7"})
    assert requeue_this_task(
        {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "3"}
    )
    assert cluster.read_text().splitlines() == ["scontrol requeue 7", "scontrol requeue 8_3"]
