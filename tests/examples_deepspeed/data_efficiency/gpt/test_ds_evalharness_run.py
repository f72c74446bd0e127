"""The evaluation script without a cluster: its jobs, a real run, what is done again, what is refused."""

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.examples_deepspeed.data_efficiency.stopped_script import check_a_stop_ends_what_runs
from tests.examples_deepspeed.shell_runs import start
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run
from tools import gather_results
from tools.evaluate_gpt import parse_arguments

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "examples_deepspeed/data_efficiency/gpt/eval/ds_evalharness_run.sh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of one step, the second trained with two seeds; data of the local tasks."""
    folder = tmp_path_factory.mktemp("a folder")
    for number, name in enumerate(("one", "two/seed_1", "two/seed_2")):
        save_run(folder / "runs" / name, make_gpt(GPT2, number), make_tokenizer(), step=5)
    write_task_data(folder / "data")
    return folder


def evaluate(folder, **settings):
    defaults = {"CHECKPOINTS": "runs", "SAVE": "results", "HF_HOME": str(folder / "cache")}
    return start(SCRIPT, cwd=folder, **(defaults | settings))


def evaluations(lines):
    """The parsed flags of the lines that evaluate."""
    commands = [shlex.split(line) for line in lines if "evaluate_gpt.py" in line]
    places = [next(i for i, word in enumerate(c) if "evaluate_gpt.py" in word) for c in commands]
    return [parse_arguments(c[place + 1 :]) for c, place in zip(commands, places, strict=True)]


def test_dry_run_prints_a_job_for_each_checkpoint_and_row_of_tasks(folder):
    ended = evaluate(folder, DRY_RUN="1", DATA_FOLDER="data", LIMIT="3", FLAGS="--dtype bfloat16")
    assert (ended.returncode, ended.stderr) == (0, "")
    *jobs, table = ended.stdout.splitlines()
    parsed = evaluations(jobs)
    assert len(parsed) == len(jobs) == 3 * (7 + 6)
    assert {(one.limit, one.dtype, one.keep_finished) for one in parsed} == {(3, "bfloat16", True)}
    assert [one.num_fewshot for one in parsed[:13]] == [0] * 7 + [10] * 6
    assert parsed[2].tasks == "local_boolq,local_copa"
    assert str(parsed[2].output) == "results/one/0shot/local_boolq+local_copa.json"
    assert str(parsed[-1].output) == "results/two/seed_2/10shot/local_wsc273.json"
    command, target = table.split(">")
    words = shlex.split(command)
    wanted = gather_results.parse_arguments(words[words.index("--run") :])
    assert wanted.run == ["one=results/one", "two=results/two/seed_1", "two=results/two/seed_2"]
    assert target == "results/table.md"
    assert not (folder / "results").exists()


def test_published_tasks_and_every_checkpoint_of_one_run(folder, tmp_path):
    for step in (5, 40, 100):
        (tmp_path / f"global_step{step}").mkdir()
    (tmp_path / "latest").write_text("global_step100")
    settings = {"DRY_RUN": "1", "CHECKPOINTS": str(tmp_path), "NUM_PROCESSES": "2"}
    lines = evaluate(folder, **settings).stdout.splitlines()
    assert "-m torch.distributed.run --standalone --nproc_per_node=2" in lines[0]
    parsed = evaluations(lines)
    assert len(parsed) == 3 * (16 + 16)
    names = list(dict.fromkeys(one.checkpoint.name for one in parsed))
    assert names == ["global_step5", "global_step40", "global_step100"]
    alone = evaluate(folder, **settings, ZERO_SHOT="none", FEW_SHOT="rte,wsc copa", NUM_FEWSHOT="5")
    assert [(one.tasks, one.num_fewshot) for one in evaluations(alone.stdout.splitlines())] == [
        ("rte,wsc", 5),
        ("copa", 5),
    ] * 3


def test_devices_share_the_jobs(folder):
    settings = {"DRY_RUN": "1", "DATA_FOLDER": "data", "FEW_SHOT": "none"}
    jobs = evaluations(evaluate(folder, DEVICES="cuda:0 cuda:1", **settings).stdout.splitlines())
    assert sorted(one.device for one in jobs) == ["cuda:0"] * 11 + ["cuda:1"] * 10
    assert len({str(one.output) for one in jobs}) == 21


def test_an_array_of_jobs_and_a_table_that_waits(folder):
    settings = {"DRY_RUN": "1", "LAUNCHER": "slurm", "DATA_FOLDER": "data", "AFTER": "77"}
    ended = evaluate(folder, **settings, SBATCH_FLAGS="--gpus=1")
    assert ended.returncode == 0, ended.stderr
    made, listed, array, table = ended.stdout.splitlines()
    assert made == "mkdir -p results/logs"
    assert "--array=1-39 " in array
    assert "--gpus=1" in array
    waited_for = [job.split("afterok:")[1].split()[0] for job in (array, table)]
    assert waited_for == ["77", "$job_1"]
    assert "gather_results.py" in table
    # What the list would hold is what runs here, a line a job.
    (folder / "listed").mkdir()
    script = listed.replace("results/logs/", "listed/")
    subprocess.run(["bash", "-e"], input=script, cwd=folder, text=True, check=True)
    (file,) = (folder / "listed").iterdir()
    here = evaluate(folder, DRY_RUN="1", DATA_FOLDER="data").stdout.splitlines()[:-1]
    assert file.read_text().splitlines() == here


@pytest.mark.full
def test_it_evaluates_and_does_only_what_is_missing(folder):
    settings = {"DATA_FOLDER": "data", "ZERO_SHOT": "local_copa local_piqa", "FEW_SHOT": "none"}
    settings |= {"DEVICES": "cpu", "SAVE": "done"}
    ended = evaluate(folder, **settings)
    assert ended.returncode == 0, ended.stderr
    assert "[6/6] two/seed_2, 0 examples: local_piqa (" in ended.stdout
    table = (folder / "done" / "table.md").read_text()
    assert table in ended.stdout
    assert "| model | average of 2 | piqa | copa |" in table
    assert "| two | " in table
    assert " ± " in table
    files = sorted((folder / "done").glob("*/**/*shot/*.json"))
    assert len(files) == 6
    (folder / "done/one/0shot/local_copa.json").unlink()
    save_run(folder / "runs/two/seed_1", make_gpt(GPT2, 7), make_tokenizer(), step=6)
    before = {file: file.stat().st_mtime_ns for file in files[1:]}
    again = evaluate(folder, **settings)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("was finished before") == 3
    changed = {file for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed == {file for file in files if "seed_1" in str(file)}


def test_a_failed_job_does_not_stop_the_others(folder):
    settings = {"DATA_FOLDER": "data", "ZERO_SHOT": "local_no local_copa", "FEW_SHOT": "none"}
    ended = evaluate(folder, **settings, CHECKPOINTS="runs/one/global_step5", SAVE="failed")
    assert ended.returncode == 1
    assert "error: --tasks names 'local_no'" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: not all jobs ended well")
    assert (folder / "failed/global_step5/0shot/local_copa.json").is_file()


def test_a_stop_ends_what_runs(folder):
    settings = {"CHECKPOINTS": "runs", "SAVE": "stopped", "ZERO_SHOT": "piqa", "FEW_SHOT": "none"}
    check_a_stop_ends_what_runs(SCRIPT, folder, settings)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"CHECKPOINTS": ""}, "CHECKPOINTS is not set; it is described at the top of"),
        ({"SAVE": ""}, "SAVE is not set; it is described at the top of"),
        ({"CHECKPOINTS": "data"}, "CHECKPOINTS is data: no run and no checkpoint in it"),
        ({"CHECKPOINTS": "no"}, "CHECKPOINTS is no: no run and no checkpoint in it"),
        ({"ZERO_SHOT": "none", "FEW_SHOT": "none"}, "ZERO_SHOT and FEW_SHOT are none: "),
        ({"LAUNCHER": "pbs"}, "LAUNCHER is pbs: must be local or slurm"),
    ],
)
def test_bad_settings_are_one_line(folder, changes, line):
    ended = evaluate(folder, **{"DATA_FOLDER": "data", "DRY_RUN": "1"} | changes)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {line}")
    assert ended.stderr.count("\n") == 1
