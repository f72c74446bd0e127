"""Every script of the finetuning examples: its dry run's command is the recipe's or the study's."""

import shlex

import pytest

pytest.importorskip("transformers")

from megatron.arguments import parse_run_config
from megatron.study import jobs_of, read_study
from tests.examples_deepspeed.data_efficiency.finished_run import ROOT
from tests.examples_deepspeed.shell_runs import start

EXAMPLES = ROOT / "examples_deepspeed" / "data_efficiency"
TRAINING = {
    "gpt_finetuning/bash_script/run_base_random_ltd.sh": "gpt2",
    "gpt_finetuning/bash_script/run_medium_random_ltd.sh": "gpt2-medium",
    "vit_finetuning/bash_script/run_cifar.sh": "timm:vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_finetuning/bash_script/run_imagenet.sh": "timm:vit_base_patch16_224.augreg_in21k_ft_in1k",
}
STUDIES = {
    "gpt_finetuning/finetune/ds_finetune_gpt2_run.sh": (
        20,
        ["baseline", "random_ltd", "curriculum", "both"],
    ),
    "bert/finetune/ds_finetune_bert_glue_run.sh": (
        160,
        ["lr_2e-5", "lr_3e-5", "lr_4e-5", "lr_5e-5"],
    ),
}
ANALYSIS = [f"gpt_finetuning/finetune/ds_analyze_gpt_data_{step}.sh" for step in ("map", "reduce")]


def test_scripts_of_the_tutorial_are_here():
    found = [*EXAMPLES.glob("*_finetuning/*/*.sh"), *EXAMPLES.glob("bert/finetune/*.sh")]
    assert {str(path.relative_to(EXAMPLES)) for path in found} == {*TRAINING, *STUDIES, *ANALYSIS}
    assert all(len(path.read_text().splitlines()) <= 10 for path in found)


@pytest.mark.parametrize("script", TRAINING)
def test_dry_run(script, tmp_path):
    settings = {"DRY_RUN": "1", "NUM_PROCESSES": "2", "LAUNCHER": "torchrun"}
    done = start(
        EXAMPLES / script, "--deepspeed", "--seed", "3", "--lr", "3e-3", cwd=tmp_path, **settings
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    words = shlex.split(done.stdout.splitlines()[0])
    assert "--nproc_per_node=2" in words
    place = next(number for number, word in enumerate(words) if word.endswith("/finetune.py"))
    architecture = words[place].split("/")[-2]
    config = parse_run_config("", words[place + 1 :], architecture=architecture)
    assert config.model.pretrained == TRAINING[script]
    assert (config.training.random_ltd, config.training.deepspeed) == (True, True)
    assert (config.training.seed, config.training.lr) == (3, 3e-3)


@pytest.mark.parametrize("script", STUDIES)
def test_a_sweep_is_a_study(script, tmp_path):
    done = start(EXAMPLES / script, "--parallel", "2", cwd=tmp_path, DRY_RUN="1")
    words = shlex.split(done.stdout)
    assert words[1:3] == [str(ROOT / "tools/study.py"), "run"]
    assert words[4:] == ["--parallel", "2"]
    study = read_study(EXAMPLES / words[3])
    jobs = jobs_of(study)
    assert (len(jobs), list(study.arms)) == STUDIES[script]
    assert study.seeds == [1234, 1235, 1236, 1237, 1238]
    if study.cases == {"": {}}:
        switches = [
            (one.random_ltd, one.data_efficiency_curriculum_learning, one.curriculum_share)
            for one in (job.config.training for job in jobs[:4])
        ]
        both = (True, True, 0.1)
        assert switches == [(False, False, 0.1), (True, False, 0.1), (False, True, 0.7), both]
    else:
        one = jobs[0].config
        assert (one.training.epochs, one.training.batch_size, one.data.max_length) == (3, 32, 512)
        assert (one.training.weight_decay, one.training.warmup_fraction) == (0.1, 0.1)
        assert {job.config.data.task for job in jobs} == {*study.cases}


@pytest.mark.parametrize("script", ANALYSIS)
def test_analysis(script, tmp_path):
    done = start(EXAMPLES / script, "--difficulty", "a b", cwd=tmp_path, DRY_RUN="1")
    words = shlex.split(done.stdout)
    assert words[1].endswith("gpt_finetuning/analyze_data.py")
    assert words[2:] == ["--config", "rarity", "--difficulty", "a b"]


def test_bad_input_is_one_line(tmp_path):
    script = EXAMPLES / "vit_finetuning/bash_script/run_cifar.sh"
    done = start(script, "--config", "no.toml", cwd=tmp_path, LAUNCHER="single")
    assert done.returncode == 1
    assert done.stderr == "error: 'no.toml' is no run file: there is no such file\n"
