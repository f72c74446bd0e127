"""The evaluation script on a real SLURM of two nodes: an array of jobs and the table that waits for it."""

from pathlib import Path

import pytest

from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run

pytestmark = [pytest.mark.slurm, pytest.mark.full]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples_deepspeed/data_efficiency/gpt/eval/ds_evalharness_run.sh"


def test_an_array_of_jobs_and_a_table(slurm, tmp_path):
    """Two models and data of the local tasks, in folders whose paths have a space."""
    folder, before = tmp_path / "a folder", slurm.wait_for_jobs().keys()
    for number, name in enumerate(("one", "two")):
        save_run(folder / "runs" / name, make_gpt(GPT2, number), make_tokenizer())
    write_task_data(folder / "data")
    flags = ["--checkpoints", folder / "runs", "--output", folder / "results", "--device", "cpu"]
    flags += ["--data-folder", folder / "data", "--zero-shot", "local_copa", "--few-shot", "none"]
    settings = {"HF_HOME": str(folder / "cache"), "LAUNCHER": "slurm", "NUM_WORKERS": "2"}
    save, words = folder / "results", list(map(str, flags))
    printed = slurm.start(SCRIPT, *words, **settings, DRY_RUN="1")
    assert not save.exists()
    slurm.run_printed(printed)
    jobs = {key: job for key, job in slurm.wait_for_jobs(240).items() if key not in before}
    logs = "\n".join(file.read_text() for file in (save / "logs").iterdir())
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}, logs
    assert sorted(job["JobName"] for job in jobs.values()) == ["evaluate", "evaluate", "table"]
    table = (save / "table.md").read_text()
    assert "| one | " in table
    assert "| two | " in table
