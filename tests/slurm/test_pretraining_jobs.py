"""A recipe on a real SLURM of two nodes: the four stages, and a run that is interrupted and goes on."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.end_to_end import bert_runs
from tests.end_to_end.engine_runs import log_lines

# Each stage is a job that imports torch anew on both nodes, which are this one machine.
pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(900)]
WAIT_SECONDS = 420

ROOT = Path(__file__).resolve().parents[2]
SUBMIT = ROOT / "examples_deepspeed" / "slurm" / "submit.sh"
RECIPE = "gpt_cl_ltd_300b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a corpus; the index is made by the first pipeline."""
    folder = tmp_path_factory.mktemp("a folder")
    lengths = np.random.default_rng(5).integers(20, 400, 400).astype(np.int32)
    tokens = (np.random.default_rng(6).zipf(1.4, lengths.sum()) % 400).astype(np.uint16)
    with IndexedDatasetWriter(str(folder / "corpus"), np.dtype("uint16")) as writer:
        writer.add_documents(tokens, lengths)
        writer.finish({"vocab_size": 400})

    return folder


def submit(slurm, folder, name, *flags, recipe=RECIPE, corpus="corpus", **settings):
    places = ["--data-path", str(folder / corpus), "--difficulty", str(folder / f"of {corpus}")]
    script = f"pretrain_{recipe.split('_')[0]}.py"
    return slurm.start(
        SUBMIT,
        *(script, "--config", recipe, "--scale-down", *places, "--save", str(folder / name)),
        *("--vocab-size", "400", *flags),
        **{"DS_ACCELERATOR": "cpu", "PRETRAIN_FLAGS": "--nodes=2 --ntasks-per-node=1"} | settings,
    )


def job_number(printed, name):
    return next(
        line.split()[-1] for line in printed.splitlines() if line.startswith(f"{name}: job")
    )


def output(save):
    return "\n".join(file.read_text() for file in (save / "logs").iterdir())


def test_analysis_pretraining_and_evaluation_follow_each_other(slurm, folder):
    before = slurm.wait_for_jobs().keys()
    printed = submit(slurm, folder, "all", "--deepspeed", NUM_WORKERS="2", DRY_RUN="1")
    assert not (folder / "all").exists()
    slurm.run_printed(printed)
    jobs = slurm.wait_for_jobs(WAIT_SECONDS)
    new = [job for number, job in jobs.items() if number not in before]
    assert {job["JobState"] for job in new} == {"COMPLETED"}, output(folder / "all")
    assert {job["JobName"] for job in new} == {
        *("map-total_vocab_freq", "reduce-total_vocab_freq", "map-vocab_rarity"),
        *("reduce-vocab_rarity", "pretrain", "evaluate"),
    }
    lines = log_lines(folder / "all")
    start = lines[0]
    assert (start["num_processes"], start["settings"]["training"]["deepspeed"]) == (2, True)
    assert "--train-tokens" in lines[-1]["reason"]
    (evaluated,) = (folder / "all" / "logs").glob("evaluate-*.log")
    assert f"validation at step {lines[-1]['step']}: loss" in evaluated.read_text()
    assert "effective tokens" not in evaluated.read_text()


def test_a_bert_is_analyzed_trained_and_evaluated_as_well(slurm, folder):
    before = slurm.wait_for_jobs().keys()
    bert_runs.write_sentences(folder / "sentences", num_documents=400)
    submit(slurm, folder, "bert", recipe="bert_cl_voc_reorder_1049b", corpus="sentences")
    jobs = slurm.wait_for_jobs(WAIT_SECONDS)
    new = [job for number, job in jobs.items() if number not in before]
    assert {job["JobState"] for job in new} == {"COMPLETED"}, output(folder / "bert")
    assert {job["JobName"] for job in new} >= {"reduce-seqlen_vocab_rarity", "pretrain", "evaluate"}
    lines = log_lines(folder / "bert")
    assert lines[0]["num_processes"] == 2
    assert "--train-tokens" in lines[-1]["reason"]
    (evaluated,) = (folder / "bert" / "logs").glob("evaluate-*.log")
    assert f"validation at step {lines[-1]['step']}: loss" in evaluated.read_text()


def test_an_interrupted_run_is_requeued_and_ends_as_the_unbroken_one(slurm, folder):
    flags = ("--train-tokens", "80000", "--save-interval", "100000")
    submit(slurm, folder, "unbroken", *flags)
    slurm.wait_for_jobs(WAIT_SECONDS)
    printed = submit(slurm, folder, "broken", *flags)
    job, log = job_number(printed, "pretrain"), folder / "broken" / "log.jsonl"
    deadline = time.monotonic() + WAIT_SECONDS
    while not log.exists() or log.read_text().count('"kind": "train"') < 50:
        assert time.monotonic() < deadline, output(folder / "broken")
        time.sleep(0.1)
    slurm.output_of("scancel", "--signal=USR1", job)
    jobs = slurm.wait_for_jobs(WAIT_SECONDS)
    assert jobs[job]["Restarts"] == "1", output(folder / "broken")
    assert jobs[job]["JobState"] == "COMPLETED"
    said = (folder / "broken" / "logs" / f"pretrain-{job}.log").read_text()
    assert re.search(r"stopped after step \d+: signal SIGUSR1", said)
    assert "started 1 times before" in said
    step = int(re.search(r"continuing from \S.*global_step(\d+)", said)[1])
    assert 50 <= step < log_lines(folder / "broken")[-1]["step"]
    unbroken, broken = (
        [line["loss"] for line in log_lines(folder / name) if line["kind"] in ("train", "valid")][
            -1
        ]
        for name in ("unbroken", "broken")
    )
    assert broken == unbroken
    last = (folder / "broken" / "latest").read_text().strip()
    found, wanted = (
        load_file(folder / name / last / "model.safetensors") for name in ("broken", "unbroken")
    )
    assert all((found[name] == wanted[name]).all() for name in wanted)


def test_an_array_of_seeds(slurm, folder):
    """Of numbers above a cluster's MaxArraySize; each task has its seed in its log's name."""
    settings = {"SEEDS": "1234,4321", "PRETRAIN_FLAGS": "--nodes=1 --ntasks-per-node=1"}
    submit(slurm, folder, "seeds/seed_{seed}", **settings)
    slurm.wait_for_jobs(WAIT_SECONDS)
    losses = set()
    for seed in (1234, 4321):
        lines = log_lines(folder / "seeds" / f"seed_{seed}")
        assert lines[0]["settings"]["training"]["seed"] == seed
        losses.add(lines[-2]["loss"])
        (log,) = (folder / "seeds" / "logs").glob(f"pretrain-seed_{seed}-*.log")
        assert "stopped after step" in log.read_text()
    assert len(losses) == 2


def test_a_task_that_is_stopped_requeues_itself_alone(slurm, folder):
    settings = {"SEEDS": "5,6", "PRETRAIN_FLAGS": "--nodes=1 --ntasks-per-node=1"}
    flags = ("--train-tokens", "80000", "--save-interval", "100000")
    printed = submit(slurm, folder, "two/seed_{seed}", *flags, **settings)
    job, log = job_number(printed, "pretrain"), folder / "two" / "seed_6" / "log.jsonl"
    deadline = time.monotonic() + WAIT_SECONDS
    while not log.exists() or log.read_text().count('"kind": "train"') < 50:
        assert time.monotonic() < deadline, output(folder / "two")
        time.sleep(0.1)
    slurm.output_of("scancel", "--signal=USR1", f"{job}_1")
    jobs = slurm.wait_for_jobs(WAIT_SECONDS)
    restarts = {
        each["ArrayTaskId"]: each["Restarts"]
        for each in jobs.values()
        if each.get("ArrayJobId") == job
    }
    assert restarts == {"0": "0", "1": "1"}, output(folder / "two")
    assert "--train-tokens" in log_lines(folder / "two" / "seed_6")[-1]["reason"]
