"""BERT's quick start: its commands parse and say BERT. How stages go on is tested with GPT's."""

from pathlib import Path

import pytest

from tests.examples_deepspeed.data_efficiency.gpt.test_quickstart import (
    ROOT,
    QuickStart,
    assert_ends_at_full_length,
    dry_run,
    variants_of,
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


def test_variants_differ_in_their_configuration_alone(tmp_path, commands):
    analysis = analyze_data.parse_arguments(commands[3][1:])
    for run in variants_of(commands, tmp_path / "a run", num_token_types=2):
        assert list(run.data.data_path) == analysis.data_path
        assert (run.data.split, run.data.seq_length) == (analysis.split, analysis.seq_length)
        assert_ends_at_full_length(run)
