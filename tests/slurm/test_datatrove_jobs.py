"""Our blocks in pipelines of datatrove's SLURM executor: a task that dies, and the pipeline started again."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from data_efficiency.command import main
from tests.data_efficiency.small_corpus import word_tokenizer

pytest.importorskip("datatrove", reason="needs the extra `full`: make test-full installs it")
pytestmark = [pytest.mark.slurm, pytest.mark.full]

HOPELESS = "DependencyNeverSatisfied"
ROOT = Path(__file__).resolve().parents[2]
PIPELINES = """
    import sys
    from pathlib import Path
    from datatrove.executor import SlurmPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from data_efficiency.adapters.datatrove_blocks import KeepTokens, WriteIndexes

    folder, root = Path(sys.argv[1]), sys.argv[2]

    def dying_once(mark):
        # It goes to the jobs by value, without the names of this module.
        def die_once(data, rank=0, world_size=1):
            import os, signal
            if rank == 1 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield from data
        return die_once

    save, tokenizer = str(folder / "d"), str(folder / "tokenizer.json")
    settings = {"time": "00:10:00", "partition": "main", "qos": "", "requeue": False, "mem_per_cpu_gb": 0}
    settings["env_command"] = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={root} OMP_NUM_THREADS=1"
    first = SlurmPipelineExecutor(
        [JsonlReader(str(folder / "texts")), dying_once(folder / "killed"), KeepTokens(save, tokenizer)],
        tasks=2, job_name="keep", logging_dir=str(folder / "logs" / "keep"), **settings,
    )
    SlurmPipelineExecutor(
        [WriteIndexes(save, ["seqlen", "vocab_rarity"])],
        tasks=1, job_name="write", logging_dir=str(folder / "logs" / "write"), depends=first,
        sbatch_args={"kill-on-invalid-dep": "yes"}, **settings,
    ).run()
"""


def start(slurm, folder):
    """Names and states of the jobs of a start, when all have ended."""
    before = slurm.wait_for_jobs().keys()
    words = [sys.executable, str(folder / "pipelines.py"), str(folder), str(ROOT)]
    settings = slurm.environment | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, env=settings, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # What datatrove lets wait for a job that has failed waits for ever.
    deadline = time.monotonic() + 200
    while set(slurm.output_of("squeue", "--noheader", "--format=%r").split()) - {HOPELESS}:
        assert time.monotonic() < deadline, slurm.output_of("squeue")
        time.sleep(0.3)
    slurm.end_jobs()
    jobs = {key: job for key, job in slurm.wait_for_jobs().items() if key not in before}
    return {(job["JobName"], job["JobState"]) for job in jobs.values()}


def test_a_task_dies_and_the_pipeline_is_started_again(slurm, tmp_path, capsys):
    words = ["the", "fox", "owl", "and"]
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(words))
    (tmp_path / "texts").mkdir()
    for number in range(3):
        texts = [" ".join(words[(number + i) % 4 :]) + " the" * (i % 5) for i in range(7 + number)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "texts" / f"part_{number}.jsonl").write_text(lines)
    (tmp_path / "pipelines.py").write_text(textwrap.dedent(PIPELINES))
    first = start(slurm, tmp_path)
    assert {("keep", "COMPLETED"), ("keep", "FAILED"), ("write", "CANCELLED")} <= first
    assert ("write", "COMPLETED") not in first
    part = tmp_path / "d" / "tokens.parts" / "00000.json"
    assert [file.name for file in part.parent.glob("*.json")] == [part.name]
    assert start(slurm, tmp_path) == {("keep", "COMPLETED"), ("write", "COMPLETED")}
    flags = ["--tokenizer", str(tmp_path / "tokenizer.json"), "--save", str(tmp_path / "ours")]
    for metric in ("seqlen", "vocab_rarity"):
        assert main(["analyze", str(tmp_path / "texts"), *flags, "--metric", metric]) == 0
        for name in ("manifest.json", "order.npy", "values.npy"):
            ours = (tmp_path / "ours" / metric / name).read_bytes()
            assert (tmp_path / "d" / metric / name).read_bytes() == ours, (metric, name)
