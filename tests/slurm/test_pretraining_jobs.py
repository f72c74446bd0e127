"""A recipe on a real SLURM of two nodes: the four stages, and a run that is interrupted and goes on."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.end_to_end import bert_runs
from tests.end_to_end.engine_runs import log_lines
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import make_tokenizer

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


def readme_line(folder):
    """README's command that submits a chain, on this cluster's nodes and these files, scaled down."""
    block = next(
        block for block in (ROOT / "README.md").read_text().split("```") if "submit.sh" in block
    )
    line = block.removeprefix("bash\n")
    for theirs, ours in (
        ("NUM_WORKERS=16", "NUM_WORKERS=2"),
        ('"--nodes=8 --ntasks-per-node=8 --gpus-per-task=1"', '"--nodes=2 --ntasks-per-node=1"'),
        ("TASKS_DATA=hub", f"TASKS_DATA={shlex.quote(str(folder / 'tasks'))}"),
        ('EVALUATE_FLAGS="--gpus=1"', ""),
        ("examples_deepspeed/slurm/submit.sh", str(SUBMIT)),
        (
            "--config gpt_cl_ltd_300b",
            "--config gpt_cl_ltd_300b --scale-down --deepspeed --vocab-size 400",
        ),
    ):
        assert theirs in line
        line = line.replace(theirs, ours)
    return line


def test_the_line_of_the_readme_ends_with_the_tasks_and_their_table(slurm, folder):
    """Analysis, an array of two seeds on two nodes each, validation, tasks and table."""
    before = slurm.wait_for_jobs().keys()
    (folder / "tokens").mkdir()
    for file in folder.glob("corpus.*"):
        shutil.copy(file, folder / "tokens" / file.name.replace("corpus", "my_text_document"))
    make_tokenizer().save(folder / "tokens" / "tokenizer.json")
    write_task_data(folder / "tasks")
    settings = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    settings |= {"TASKS_FLAGS": "--zero-shot local_copa,local_piqa --few-shot none --device cpu"}
    settings |= {"HF_HOME": str(folder / "cache")}
    line = ["bash", "-c", readme_line(folder)]
    environment = slurm.environment | settings
    ended = subprocess.run(
        line, cwd=folder, env=environment | {"DRY_RUN": "1"}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert not (folder / "runs").exists()
    printed = {"input": ended.stdout, "text": True, "check": True}
    subprocess.run(["bash", "-e"], cwd=folder, env=environment, **printed)
    jobs = slurm.wait_for_jobs(2 * WAIT_SECONDS)
    new = [job for number, job in jobs.items() if number not in before]
    assert {job["JobState"] for job in new} == {"COMPLETED"}, output(folder / "runs" / "a")
    assert Counter(job["JobName"] for job in new) == {
        **dict.fromkeys(("map-total_vocab_freq", "map-vocab_rarity", "pretrain", "evaluate"), 2),
        **dict.fromkeys(("reduce-total_vocab_freq", "reduce-vocab_rarity", "table"), 1),
        "tasks": 2,
    }
    for seed in (1234, 1235):
        run = folder / "runs" / "a" / f"seed_{seed}"
        lines = log_lines(run)
        training = lines[0]["settings"]["training"]
        assert (lines[0]["num_processes"], training["seed"], training["deepspeed"]) == (
            2,
            seed,
            True,
        )
        assert "--train-tokens" in lines[-1]["reason"]
        (evaluated,) = (run.parent / "logs").glob(f"evaluate-seed_{seed}-*.log")
        assert f"validation at step {lines[-1]['step']}: loss" in evaluated.read_text()
        assert "effective tokens" not in evaluated.read_text()
    table = (folder / "runs" / "a_evaluation" / "table.md").read_text()
    assert "| model | average of 2 | piqa | copa |" in table
    assert re.search(r"^\| a \| .* ± ", table, flags=re.MULTILINE), table


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
    slurm.let_save(job)
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


def start_recorded(slurm, folder, name):
    """Number of a job of one or two nodes that trains, and writes down the samples of its forward passes."""
    save = folder / name
    (save / "records").mkdir(parents=True)
    settings = {"REPOSITORY": str(ROOT), "PYTHON": sys.executable, "RECORDS": str(save / "records")}
    settings |= {"ATTEMPT": "0", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    words = ["sbatch", "--parsable", "--nodes=1-2", "--exclusive"]
    words += [f"--output={save}/job.log", SUBMIT.parent / "pretrain.sbatch"]
    words += ["tests/end_to_end/recorded_run.py", "--config", RECIPE, "--scale-down"]
    words += [
        "--data-path",
        folder / "corpus",
        "--difficulty",
        folder / "of corpus",
        "--save",
        save,
    ]
    words += ["--vocab-size", "400", "--train-tokens", "40000", "--save-interval", "20"]
    # Sums over two processes and over one are rounded otherwise, and dropout is drawn by process.
    words += [
        "--log-interval",
        "1",
        "--no-bf16",
        "--hidden-dropout",
        "0",
        "--attention-dropout",
        "0",
    ]
    environment = slurm.environment | settings
    ended = subprocess.run(
        list(map(str, words)), env=environment, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


def recorded_samples(save):
    """Step -> how often each sample went through a forward pass."""
    found = defaultdict(Counter)
    for file in (save / "records").iterdir():
        for line in file.read_text().split("\n")[:-1]:
            record = json.loads(line)
            found[record["step"]].update(record["samples"])
    return found


def train_lines(save):
    return [line for line in log_lines(save) if line["kind"] == "train"]


@pytest.fixture(scope="module")
def on_two_nodes(slurm, folder):
    """Folder of a recorded run that had both nodes from its first to its last step."""
    if not (folder / "of corpus").exists():
        submit(slurm, folder, "index")
        slurm.wait_for_jobs(WAIT_SECONDS)
    start_recorded(slurm, folder, "two nodes")
    slurm.wait_for_jobs(WAIT_SECONDS)
    return folder / "two nodes"


@pytest.mark.parametrize("way", ["signal", "lost node"])
def test_a_job_is_requeued_with_fewer_nodes(slurm, folder, on_two_nodes, way):
    """One of two is drained, or lost: the same samples in the same steps, and losses within rounding."""
    save = folder / f"fewer nodes {way}"
    job = start_recorded(slurm, folder, save.name)
    deadline = time.monotonic() + WAIT_SECONDS
    while len(train_lines(save)) < 50:
        assert time.monotonic() < deadline, (save / "job.log").read_text()
        time.sleep(0.1)
    try:
        if way == "signal":
            slurm.output_of("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
            slurm.let_save(job)
        else:
            slurm.lose_node("n1")
        jobs = slurm.wait_for_jobs(WAIT_SECONDS)
    finally:
        slurm.bring_back("n1")
    said = (save / "job.log").read_text()
    assert (jobs[job]["Restarts"], jobs[job]["JobState"]) == ("1", "COMPLETED"), said
    assert "started 0 times before, on n[0-1]\n" in said
    assert "started 1 times before, on n0\n" in said
    assert re.findall(r"\| (\d) x cpu", said) == ["2", "1"]
    resumed = int(re.search(r"continuing from \S.*global_step(\d+)", said)[1])
    assert resumed >= (50 if way == "signal" else 40)

    found, expected = train_lines(save), train_lines(on_two_nodes)
    assert len(found) == len(expected) > resumed + 20
    for left, right in zip(found, expected, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)
        for name in ("step", "corpus_tokens", "loss_tokens", "layer_tokens", "sequence_length"):
            assert left[name] == right[name], name
    samples, wanted = recorded_samples(save), recorded_samples(on_two_nodes)
    assert samples.keys() == wanted.keys()
    for step, counts in wanted.items():
        assert samples[step].keys() == counts.keys(), step
        # Steps behind the last checkpoint of a lost node are taken again.
        again = way == "lost node" and resumed < step
        assert samples[step] == counts or (again and samples[step] <= counts + counts), step


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
    """Its sibling has finished on the one node that both may have, and stays so."""
    alone = "--nodes=1 --ntasks-per-node=1 --nodelist=n0 --exclusive"
    settings = {"SEEDS": "5,6", "PRETRAIN_FLAGS": alone}
    flags = ("--train-tokens", "80000", "--save-interval", "100000")
    printed = submit(slurm, folder, "two/seed_{seed}", *flags, **settings)
    job, log = job_number(printed, "pretrain"), folder / "two" / "seed_6" / "log.jsonl"
    deadline = time.monotonic() + WAIT_SECONDS
    while not log.exists() or log.read_text().count('"kind": "train"') < 50:
        assert time.monotonic() < deadline, output(folder / "two")
        time.sleep(0.1)
    sibling = folder / "two" / "seed_5" / "log.jsonl"
    finished = sibling.read_bytes()
    assert log_lines(sibling.parent)[-1]["kind"] == "end"
    slurm.let_save(f"{job}_1")
    jobs = slurm.wait_for_jobs(WAIT_SECONDS)
    restarts = {
        each["ArrayTaskId"]: each["Restarts"]
        for each in jobs.values()
        if each.get("ArrayJobId") == job
    }
    assert restarts == {"0": "0", "1": "1"}, output(folder / "two")
    # What follows is the validation behind the array.
    assert sibling.read_bytes().startswith(finished[: finished.rindex(b'{"kind": "end"')])
    assert "--train-tokens" in log_lines(folder / "two" / "seed_6")[-1]["reason"]
