"""The launch scripts without a cluster: what they choose, what they print, what they refuse."""

from pathlib import Path

import pytest

from tests.examples_deepspeed.shell_runs import start

FOLDER = Path(__file__).resolve().parents[2] / "examples_deepspeed"
RUN = "data_efficiency/gpt/pretrain/ds_pretrain_gpt_1.3B_dense_run.sh"
BERT_RUN = "data_efficiency/bert/pretrain/ds_pretrain_bert_336M_run.sh"
PLACES = {"DATA_PATH": "a corpus", "SAVE": "a run"}


@pytest.mark.parametrize(
    ("settings", "first_words"),
    [
        ({"NUM_PROCESSES": "1"}, "python"),
        ({"NUM_PROCESSES": "2"}, "-m torch.distributed.run --standalone --nproc_per_node=2"),
        ({"NUM_PROCESSES": "4", "HOSTFILE": "hosts"}, "deepspeed --no_local_rank --hostfile hosts"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}, "srun --kill-on-bad-exit=1 --ntasks=16"),
        ({"SLURM_JOB_ID": "7", "LAUNCHER": "single"}, "python"),
    ],
)
def test_the_launcher_follows_from_what_is_there(settings, first_words):
    ended = start(FOLDER / "launch.sh", "gpt_cl_ltd_300b", DRY_RUN="1", **PLACES, **settings)
    assert ended.returncode == 0, ended.stderr
    assert first_words in ended.stdout.splitlines()[0]
    assert "--data-path 'a corpus'" in ended.stdout
    assert '"vocab_rarity"' in ended.stdout
    assert not Path("a run").exists()


@pytest.mark.parametrize(
    ("script", "listed", "default", "other", "model"),
    [
        (RUN, "gpt_baseline_300b", "GPT-3 1.3B, {}, 300B", "gpt_ltd_150b", "gpt_125m"),
        (BERT_RUN, "bert_baseline_1049b", "BERT-large, {}, 1049B", "bert_ltd_524b", "bert_110m"),
    ],
)
def test_the_tutorials_scripts_list_and_have_a_default(script, listed, default, other, model):
    names = start(FOLDER / script, "list").stdout
    assert listed in names
    assert "gpt_" not in names or "bert_" not in names
    dry = {"DRY_RUN": "1", "LAUNCHER": "single", **PLACES}
    printed = start(FOLDER / script, **dry).stdout
    assert default.format("curriculum of rarity and truncation, with random-LTD") in printed
    assert f"pretrain_{listed.split('_')[0]}.py" in printed
    assert "--hidden-size 768" in start(FOLDER / script, other, MODEL=model, **dry).stdout


def test_jobs_wait_for_each_other():
    ended = start(FOLDER / "slurm/submit.sh", "gpt_cl_ltd_300b", DRY_RUN="1", SEEDS="1,2", **PLACES)
    assert ended.returncode == 0, ended.stderr
    jobs = [line for line in ended.stdout.splitlines() if line.startswith("job_")]
    waited_for = [job.split("afterok:")[1].split()[0] for job in jobs[1:]]
    assert waited_for == ["$job_1", "$job_2", "$job_3", "$job_4", "$job_pretrain"]
    assert "--seq-length\\ 2048" in jobs[0]
    assert all("--array=1\\,2" in job for job in jobs[4:])
    without = start(FOLDER / "slurm/submit.sh", "gpt_ltd_300b", DRY_RUN="1", **PLACES).stdout
    assert without.count("sbatch") == 4
    assert "analyze_data.py" not in without


def test_jobs_of_a_bert_make_its_own_index():
    printed = start(
        FOLDER / "slurm/submit.sh", "bert_cl_voc_reorder_1049b", DRY_RUN="1", **PLACES
    ).stdout
    jobs = [line for line in printed.splitlines() if line.startswith("job_")]
    metrics = ["total_vocab_freq", "total_vocab_freq", "seqlen_vocab_rarity", "seqlen_vocab_rarity"]
    assert [job.split("--metric\\ ")[1].split("\\")[0] for job in jobs[:4]] == metrics
    assert all("--seq-length\\ 512" in job for job in jobs[:4])
    assert ["bert_cl_voc_reorder_1049b" in job for job in jobs] == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("launch.sh", [], PLACES, "name a recipe"),
        ("launch.sh", ["gpt_ltd_300b"], {"SAVE": "a"}, "DATA_PATH is not set; it is described"),
        ("launch.sh", ["gpt_ltd_300b"], {**PLACES, "LAUNCHER": "pbs"}, "LAUNCHER is pbs: must be"),
        (
            "launch.sh",
            ["gpt_ltd_30b"],
            {**PLACES, "LAUNCHER": "single"},
            "near it are gpt_ltd_300b",
        ),
        ("launch.sh", ["a"], {**PLACES, "LAUNCHER": "single", "EVALUATE": "1"}, "no checkpoint"),
        ("slurm/submit.sh", ["gpt_ltd_300b"], {"DATA_PATH": "c"}, "SAVE is not set"),
        ("slurm/submit.sh", ["gpt_ltd_30b"], PLACES, "near it are gpt_ltd_300b"),
    ],
)
def test_bad_settings_are_one_line(script, arguments, settings, message):
    ended = start(FOLDER / script, *arguments, **settings)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
