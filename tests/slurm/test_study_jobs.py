"""A study on a real SLURM of two nodes: more runs than an array may have tasks, and a worker out of time."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full]

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "megatron" / "study" / "toy_program.py"
BASE = """
[data]
data_path = ["{output}/text"]
[training]
train_tokens = 1_000_000
lr = 1e-3
adam_eps = 0.3                 # seconds that the toy sleeps a step
"""
STUDY = """
[study]
base = "base.toml"
program = "{program}"
seeds = [1, 2, 3, 4]
[[prepare]]
name = "text"
makes = "{{output}}/text"
command = ["{maker}", "{{output}}/text"]
[arms.baseline]
[arms.renamed]
[arms.better.training]
adam_beta2 = 0.5
"""


def test_twelve_runs_in_an_array_of_six_of_which_one_requeues_itself(slurm, tmp_path):
    maker = tmp_path / "maker.py"
    maker.write_text("import sys; open(sys.argv[1], 'w').write('made')")
    (tmp_path / "base.toml").write_text(BASE)
    path = tmp_path / "a study.toml"
    path.write_text(STUDY.format(program=TOY, maker=maker))
    command = [sys.executable, str(ROOT / "tools" / "study.py"), "run", str(path), "--slurm"]
    folder, before = tmp_path / "runs", slurm.wait_for_jobs().keys()
    begun = subprocess.run(
        [*command, "--output", str(folder), "--sbatch=--cpus-per-task=1"],
        env=slurm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "12 runs are left" in begun.stdout
    array = begun.stdout.split("queued: ")[1].split(", ")[1]
    deadline, log = time.monotonic() + 120, folder / "logs" / f"work-{array}_0.log"
    while not (log.is_file() and "seed" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    slurm.let_save("--batch", f"{array}_0")
    jobs = {key: job for key, job in slurm.wait_for_jobs(300).items() if key not in before}
    logs = "\n".join(file.read_text() for file in (folder / "logs").iterdir())
    ends = [
        (job["JobId"], job.get("ArrayTaskId"), job["Restarts"], job["JobState"], job["ExitCode"])
        for job in jobs.values()
    ]
    assert {state for *_, state, _ in ends} == {"COMPLETED"}, f"{ends}\n{logs}"
    workers = [job for job in jobs.values() if job["JobName"] == "study-work"]
    assert len(workers) == 6
    assert sorted(int(job["Restarts"]) for job in workers) == [0, 0, 0, 0, 0, 1], logs
    records = [json.loads(file.read_text()) for file in folder.rglob("job.json")]
    assert [record["state"] for record in records] == ["finished"] * 12
    report = json.loads((folder / "report.json").read_text())
    verdicts = {one["arm"]: one["verdict"] for one in report["comparisons"]}
    assert verdicts == {"renamed": "undecided", "better": "better"}
