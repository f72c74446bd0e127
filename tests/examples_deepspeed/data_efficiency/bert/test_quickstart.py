"""BERT's quick start: its commands parse and say BERT. How stages go on is tested with GPT's."""

from pathlib import Path

import pytest

from data_efficiency import load_config
from megatron.arguments import parse_run_config
from tests.examples_deepspeed.data_efficiency.gpt.test_quickstart import (
    ROOT,
    VARIANTS,
    QuickStart,
    dry_run,
)
from tools import analyze_data, preprocess_data, report, train_tokenizer

SCRIPT = ROOT / "examples_deepspeed" / "data_efficiency" / "bert" / "quickstart.sh"


@pytest.fixture
def commands(tmp_path):
    return dry_run(QuickStart(tmp_path, SCRIPT))


def test_stages(commands):
    assert [Path(command[0]).name for command in commands] == [
        "prepare_demo_corpus.py",
        "train_tokenizer.py",
        "preprocess_data.py",
        "analyze_data.py",
        *["pretrain_bert.py"] * 4,
        "report.py",
    ]
    assert train_tokenizer.parse_arguments(commands[1][1:]).type == "wordpiece"
    assert preprocess_data.parse_arguments(commands[2][1:]).split_sentences
    assert analyze_data.parse_arguments(commands[3][1:]).data_type == "bert"
    report.parse_arguments(commands[-1][1:])


def test_variants_differ_in_their_configuration_alone(commands):
    runs = [parse_run_config("", command[1:], num_token_types=2) for command in commands[4:8]]
    assert [run.training.data_efficiency_curriculum_learning for run in runs] == [0, 1, 0, 1]
    assert [run.training.random_ltd for run in runs] == [0, 0, 1, 1]
    assert len({run.model for run in runs}) == len({run.data for run in runs}) == 1
    analysis = analyze_data.parse_arguments(commands[3][1:])
    for run, name in zip(runs, VARIANTS, strict=True):
        assert run.checkpoint.save is not None
        assert Path(run.checkpoint.save).name == name
        assert list(run.data.data_path) == analysis.data_path
        assert (run.data.split, run.data.seq_length) == (analysis.split, analysis.seq_length)
        config = load_config(run.training.deepspeed_config or "").data_efficiency
        assert bool(config.schedules) == run.training.data_efficiency_curriculum_learning
        for name, schedule in config.schedules.items():
            end = run.data.seq_length if name == "seqlen_truncate" else 100
            assert schedule.difficulty(10**6) == end
        if config.random_ltd is not None:
            assert config.random_ltd.schedule.difficulty(10**6) == run.data.seq_length
