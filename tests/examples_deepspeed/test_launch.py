"""The launch scripts without a cluster: what they choose, what they print, what they refuse."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.arguments import parse_run_config
from tests.examples_deepspeed.shell_runs import start
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import make_tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "examples_deepspeed"
PRETRAINING = {
    "gpt": "data_efficiency/gpt/pretrain/ds_pretrain_gpt_1.3B_dense_run.sh",
    "bert": "data_efficiency/bert/pretrain/ds_pretrain_bert_336M_run.sh",
}
GPT = ["pretrain_gpt.py", "--config", "gpt_cl_ltd_300b", "--data-path", "a corpus"]


@pytest.mark.parametrize(
    ("settings", "first_words"),
    [
        ({"NUM_PROCESSES": "1"}, "python"),
        ({"NUM_PROCESSES": "2"}, "-m torch.distributed.run --standalone --nproc_per_node=2"),
        ({"HOSTFILE": "hosts"}, "deepspeed --no_local_rank --hostfile hosts"),
        ({"LAUNCHER": "deepspeed", "NUM_PROCESSES": "4"}, "--no_local_rank --num_gpus 4"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, "srun --kill-on-bad-exit=1 --ntasks=16"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_ON_NODE": "8"},
            "srun --kill-on-bad-exit=1 --ntasks=24 --ntasks-per-node=8",
        ),
        (
            {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3", "TASKS_PER_NODE": "2"},
            "srun --kill-on-bad-exit=1 --ntasks=6 --ntasks-per-node=2",
        ),
        ({"SLURM_JOB_ID": "7", "LAUNCHER": "single"}, "python"),
    ],
)
def test_the_launcher_follows_from_what_is_there(settings, first_words):
    ended = start(FOLDER / "launch.sh", *GPT, DRY_RUN="1", **settings)
    assert ended.returncode == 0, ended.stderr
    assert first_words in ended.stdout.replace("\\", "")
    words = shlex.split(ended.stdout)
    place = next(number for number, word in enumerate(words) if word.endswith("pretrain_gpt.py"))
    assert parse_run_config("", words[place + 1 :]).data.data_path == ("a corpus",)


@pytest.mark.parametrize("launcher", ["single", "torchrun"])
@pytest.mark.parametrize("status", [0, 1, 75])
def test_the_exit_status_is_the_trainings(launcher, status, tmp_path):
    """Launchers of several processes have one of their own, so process 0 leaves a file."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\nif [[ {status} == 75 && -v AGAIN_FILE ]]; then exec touch "$AGAIN_FILE"; fi\n'
        f"exit {status}\n"
    )
    python.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    settings = {"PYTHON": str(python), "LAUNCHER": launcher, "NUM_PROCESSES": "2"}
    settings["TMPDIR"] = str(tmp_path / "temporary")
    assert start(FOLDER / "launch.sh", "a.py", **settings).returncode == status
    assert not list((tmp_path / "temporary").iterdir())


def test_ctrl_c_reaches_several_processes_and_is_waited_for(tmp_path):
    """The shell ended at once, and what it had started in the background was deaf to it and went on."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\ntrap 'sleep 0.3; touch \"$AGAIN_FILE\"; exit 0' INT\necho ready\n"
        "for ((i = 0; i < 400; i++)); do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    settings = {"PYTHON": str(python), "LAUNCHER": "torchrun", "NUM_PROCESSES": "2"}
    running = subprocess.Popen(
        ["bash", FOLDER / "launch.sh", "a.py"],
        env={**os.environ, **settings, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert running.wait(timeout=15) == 75
    finally:
        running.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.parametrize("settings", [{}, {"GLIBC_TUNABLES": "", "OMP_WAIT_POLICY": "ACTIVE"}])
def test_a_cpu_gets_its_environment_where_none_is_set(settings, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\nexec env\n")
    python.chmod(0o755)
    launch = {"PYTHON": str(python), "LAUNCHER": "single", "CUDA_VISIBLE_DEVICES": ""}
    found = start(FOLDER / "launch.sh", "a.py", **launch, **settings).stdout.splitlines()
    text = (FOLDER / "cpu.env").read_text()
    for line in text.splitlines():
        name, _, value = line.partition("=")
        assert line.startswith("#") or f"{name}={settings.get(name, value)}" in found
    assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=" in text


@pytest.mark.parametrize("family", PRETRAINING)
def test_the_tutorials_scripts_list_and_have_a_default(family):
    script = FOLDER / PRETRAINING[family]
    names = start(script, "list", LAUNCHER="single").stdout
    assert f"{family}_baseline_" in names
    assert "gpt_" not in names or "bert_" not in names
    dry = {"DRY_RUN": "1", "LAUNCHER": "single"}
    default = {"gpt": "gpt_cl_ltd_300b", "bert": "bert_cl_ltd_1049b"}[family]
    printed = start(script, "--data-path", "c", **dry).stdout
    assert f"pretrain_{family}.py --config {default} --data-path c" in printed
    assert "--config another" in start(script, "another", **dry).stdout


def jobs_of(printed):
    return [line for line in printed.splitlines() if line.startswith("job_")]


def test_jobs_wait_for_each_other():
    seeds = {"SEEDS": "1234,1235,7", "PRETRAIN_FLAGS": "--nodes=2"}
    submit = FOLDER / "slurm/submit.sh"
    ended = start(submit, *GPT, "--save", "runs/{seed}", DRY_RUN="1", **seeds)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "mkdir -p runs/logs"
    jobs = jobs_of(ended.stdout)
    waited_for = [job.split("afterok:")[1].split()[0] for job in jobs[1:]]
    assert waited_for == [f"$job_{number}" for number in range(1, 6)]
    assert "--seq-length\\ 2048" in jobs[0]
    # Numbers of the list, whatever the seeds: a cluster's arrays end at 1000.
    assert all("--array=0-2" in job and "--nodes=2" in job for job in jobs[4:])
    plain = ["pretrain_gpt.py", "--config", "gpt_ltd_300b", "--data-path", "c", "--save=r"]
    without = jobs_of(start(submit, *plain, DRY_RUN="1").stdout)
    assert len(without) == 2
    assert "analyze_data.py" not in without[0]
    assert "--array" not in without[0]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Flags of a GPT with a tokenizer; beside it lie the files of the local tasks."""
    folder = tmp_path_factory.mktemp("a folder")
    make_tokenizer().save(folder / "tokenizer.json")
    write_task_data(folder / "data")
    words = ["pretrain_gpt.py", "--config", "gpt_ltd_300b", "--data-path", "c", "--save"]
    return folder, [*words, "runs/a", "--tokenizer-file", str(folder / "tokenizer.json")]


@pytest.mark.full
def test_a_chain_ends_with_the_tasks_and_their_table(tasks):
    folder, words = tasks
    settings = {
        "TASKS_DATA": str(folder / "data"),
        "NUM_WORKERS": "3",
        "EVALUATE_FLAGS": "--gpus=1",
    }
    settings |= {"TASKS_FLAGS": "--limit 5"}
    ended = start(FOLDER / "slurm/submit.sh", *words, DRY_RUN="1", **settings)
    assert ended.returncode == 0, ended.stderr
    *_, validation, array, table = jobs_of(ended.stdout)
    assert "--eval-iters\\ 0" in validation
    assert "afterok:$job_2" in array
    assert "--array=0-2 --gpus=1" in array
    assert "afterok:$job_3" in table
    assert "--table" in table
    for job in (array, table):
        assert (
            "--checkpoints\\ runs/a\\ --output\\ runs/a_evaluation\\ --latest\\ --limit\\ 5" in job
        )
    seeds = [*words, "--save", "runs/b/seed_{seed}"]
    hub = {"TASKS_DATA": "hub", "SEEDS": "1,2", "DRY_RUN": "1"}
    *_, table = jobs_of(start(FOLDER / "slurm/submit.sh", *seeds, **hub).stdout)
    assert "--checkpoints\\ runs/b\\ --output\\ runs/b_evaluation\\ --latest\\ --table" in table


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ("nowhere", [], "nowhere: no such folder"),
        ("one", [], "local_piqa needs piqa.jsonl in it"),
        ("data", ["--tokenizer-file", "none.json"], "none.json: no such tokenizer file"),
        ("data", ["--vocab-size", "200"], "entries, the model 200: they do not belong together"),
    ],
)
def test_nothing_is_queued_before_tasks_that_cannot_be(tasks, tmp_path, data, more, message):
    folder, words = tasks
    (folder / "one").mkdir(exist_ok=True)
    shutil.copy(folder / "data" / "lambada_openai.jsonl", folder / "one")
    (tmp_path / "sbatch").write_text(f"#!/bin/bash\ntouch {tmp_path}/asked\n")
    (tmp_path / "sbatch").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    settings = {"TASKS_DATA": str(folder / data), "PATH": path}
    ended = start(FOLDER / "slurm/submit.sh", *words, *more, **settings)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert not (tmp_path / "asked").exists()


def test_jobs_of_a_bert_make_its_own_index():
    words = ["pretrain_bert.py", "--config", "bert_cl_voc_reorder_1049b", "--data-path", "c"]
    printed = start(FOLDER / "slurm/submit.sh", *words, "--save", "r", DRY_RUN="1").stdout
    jobs = jobs_of(printed)
    metrics = ["total_vocab_freq", "total_vocab_freq", "seqlen_vocab_rarity", "seqlen_vocab_rarity"]
    assert [
        job.rsplit("--metric\\ ", 1)[1].split("\\")[0].split()[0] for job in jobs[:4]
    ] == metrics
    assert all("--seq-length\\ 512\\ --data-type\\ bert" in job for job in jobs[:4])
    assert ["bert_cl_voc_reorder_1049b" in job for job in jobs] == [False] * 4 + [True] * 2


def test_a_chain_that_cannot_be_leaves_no_job(tmp_path):
    """sbatch took the analysis and refused the array of seeds; the analysis stayed in the queue."""
    (tmp_path / "sbatch").write_text(
        '#!/bin/bash\n[[ "$*" != *--job-name=pretrain* ]] || exit 1\necho $((100 + $(wc -l <../asked)))\n'
        'echo "$@" >>../asked\n'
    )
    (tmp_path / "scancel").write_text('#!/bin/bash\necho "$@" >../cancelled\n')
    for name in ("sbatch", "scancel"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    (tmp_path / "here").mkdir()
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = [*GPT, "--save", "run"]
    ended = start(FOLDER / "slurm/submit.sh", *words, cwd=tmp_path / "here", PATH=path)
    assert ended.returncode == 1
    assert ended.stderr == "error: pretrain cannot be submitted; of the jobs before it none stays\n"
    assert (tmp_path / "cancelled").read_text().split() == ["100", "101", "102", "103"]


def test_a_task_of_an_array_requeues_only_itself(tmp_path):
    """The last task of an array has the array's own number, by which all of them are meant."""
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@"\ntouch "$AGAIN_FILE"\n')
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >{tmp_path}/asked\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "logs").mkdir()
    ended = start(
        FOLDER / "slurm/pretrain.sbatch",
        *("pretrain_gpt.py", "--save", "runs/{seed}"),
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOGS": str(tmp_path / "logs")},
        **{"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"},
        **{"SEEDS": "1234,1235", "SLURM_JOB_NAME": "pretrain", "SLURM_JOB_NODELIST": "n0"},
        REPOSITORY=str(FOLDER.parent),
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "asked").read_text() == "requeue 40_1\n"
    log = (tmp_path / "logs" / "pretrain-seed_1235-40_1.log").read_text()
    assert "--save runs/1235 --seed 1235" in log


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("launch.sh", [], {}, "name a script and its flags"),
        ("launch.sh", ["a.py"], {"LAUNCHER": "pbs"}, "LAUNCHER is pbs: must be"),
        ("slurm/submit.sh", [], {}, "name a script and its flags"),
        ("slurm/submit.sh", GPT, {}, "--save is not given"),
        ("slurm/submit.sh", [*GPT, "--save", "r"], {"SEEDS": "1,2"}, "must have {seed} in it"),
        ("slurm/submit.sh", [*GPT, "--save=r{seed}"], {"SEEDS": "1,2"}, "a folder above {seed}"),
        (
            "slurm/submit.sh",
            [*GPT[:2], "gpt_ltd_30b", "--save", "r"],
            {},
            "near it are gpt_ltd_300b",
        ),
        (
            "slurm/submit.sh",
            [*GPT, "--save", "r"],
            {"TASKS_DATA": "hub"},
            "no tokenizer was found with r: give --tokenizer-file",
        ),
        (
            "slurm/submit.sh",
            ["pretrain_bert.py", "--save", "r"],
            {"TASKS_DATA": "hub"},
            "names 'pretrain_bert.py': the tasks are for pretrain_gpt.py",
        ),
    ],
)
def test_bad_settings_are_one_line(script, arguments, settings, message):
    ended = start(FOLDER / script, *arguments, **settings)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_frequencies_that_are_there_are_not_counted_again_at_a_url_either(tmp_path):
    script = FOLDER / "data_efficiency/gpt/ds_analyze_gpt_data_map.sh"
    settings = {"DRY_RUN": "1", "LAUNCHER": "slurm", "LOGS": "logs", "PYTHON": sys.executable}
    for save in (tmp_path, f"file://{tmp_path}"):
        words = ["--data-path", "c", "--seq-length", "8", "--save", str(save)]
        shutil.rmtree(tmp_path / "total_vocab_freq", ignore_errors=True)
        names = []
        for _ in range(2):
            ended = start(script, *words, **settings)
            assert ended.returncode == 0, ended.stderr
            names.append(re.findall(r"--job-name=(\S+)", ended.stdout))
            (tmp_path / "total_vocab_freq").mkdir(exist_ok=True)
            (tmp_path / "total_vocab_freq" / "manifest.json").touch()
        both = ["map-total_vocab_freq", "reduce-total_vocab_freq"]
        assert names == [[*both, "map-vocab_rarity", "reduce-vocab_rarity"], names[1]]
        assert names[1] == ["map-vocab_rarity", "reduce-vocab_rarity"]
        (tmp_path / "total_vocab_freq" / "manifest.json").unlink()
