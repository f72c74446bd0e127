"""The quick start script: its commands parse, and a second start does only what is missing.

The stages themselves are replaced by a stand-in for `python` that records its command and leaves the
files a stage would leave.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_efficiency import load_config
from megatron.arguments import parse_run_config
from megatron.engine_json import engine_json
from tools import analyze_data, prepare_demo_corpus, preprocess_data, report, train_tokenizer

ROOT = Path(__file__).resolve().parents[4]
SCRIPT = ROOT / "examples_deepspeed" / "data_efficiency" / "gpt" / "quickstart.sh"
VARIANTS = ["baseline", "curriculum", "random_ltd", "curriculum_random_ltd"]
STAGES = [
    "prepare_demo_corpus.py",
    "train_tokenizer.py",
    "preprocess_data.py",
    "analyze_data.py",
    *["pretrain_gpt.py"] * 4,
    "report.py",
]

STAND_IN = """#!{python}
import json, os, pathlib, sys
if sys.argv[1] == "-c":
    print(2)
    sys.exit()
tool = pathlib.Path(sys.argv[1]).name
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([tool, *sys.argv[2:]]) + "\\n")
if tool == "prepare_demo_corpus.py":
    print("download 7.6 s, processing 1.0 s")
flags = dict(zip(sys.argv[2:], sys.argv[3:]))
output = flags.get("--save", flags.get("--output", flags.get("--output-prefix")))
output = pathlib.Path(output + "_text_document.idx" if "--output-prefix" in flags else output)
interrupted = os.environ.get("INTERRUPT", "nothing") in output.name
if tool in ("pretrain_gpt.py", "analyze_data.py", "report.py"):
    output.mkdir(exist_ok=True)
    (output / "kept").touch()
    output = output / "log.jsonl"
output.write_text(json.dumps({{"kind": "end"}}) + "\\n")
sys.exit(interrupted and (75 if tool == "pretrain_gpt.py" else 1))
"""


class QuickStart:
    """Starts the script in a folder of its own."""

    def __init__(self, folder, script=SCRIPT):
        self.script = script
        self.run_dir = folder / "a run"
        self.calls_file = folder / "calls"
        self.stand_in = folder / "python"
        self.stand_in.write_text(STAND_IN.format(python=sys.executable))
        self.stand_in.chmod(0o755)

    def start(self, **settings):
        self.calls_file.write_text("")
        environment = os.environ | {
            "RUN_DIR": str(self.run_dir),
            "PYTHON": str(self.stand_in),
            "CALLS": str(self.calls_file),
            **settings,
        }
        return subprocess.run(
            ["bash", str(self.script)], env=environment, capture_output=True, text=True, check=False
        )

    def tools(self):
        """The tools that were called since the last start."""
        return [json.loads(line)[0] for line in self.calls_file.read_text().splitlines()]

    def trained(self):
        """The variants that were trained since the last start."""
        calls = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return [
            Path(call[call.index("--save") + 1]).name
            for call in calls
            if call[0] == "pretrain_gpt.py"
        ]


@pytest.fixture
def quick_start(tmp_path):
    return QuickStart(tmp_path)


def dry_run(quick_start, **settings):
    """The commands the script would run, as argument lists without the interpreter."""
    result = quick_start.start(DRY_RUN="1", **settings)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line)[1:] for line in result.stdout.splitlines()]


def test_dry_run_prints_every_stage_and_runs_none(quick_start):
    commands = dry_run(quick_start)
    assert [Path(command[0]).name for command in commands] == STAGES
    assert all(Path(command[0]).is_file() for command in commands)
    assert quick_start.tools() == []


def test_commands_parse(quick_start):
    commands = dry_run(quick_start, CORPUS=str(SCRIPT))
    parsers = [prepare_demo_corpus, train_tokenizer, preprocess_data, analyze_data]
    for command, tool in zip(commands, parsers, strict=False):
        tool.parse_arguments(command[1:])
    assert commands[0][commands[0].index("--input") + 1] == str(SCRIPT)
    report.parse_arguments(commands[-1][1:])


def variants_of(commands, run_dir, **parser):
    """The settings of the four runs, which differ in their configuration alone."""
    runs = [parse_run_config("", command[1:], **parser) for command in commands[4:8]]
    settings = [run.training for run in runs]
    assert [bool(run.data_efficiency_curriculum_learning) for run in settings] == [0, 1, 0, 1]
    assert [bool(run.random_ltd) for run in settings] == [0, 0, 1, 1]
    assert len({(run.train_tokens, run.token_counter, run.seed, run.lr) for run in settings}) == 1
    assert len({run.model for run in runs}) == len({run.data for run in runs}) == 1
    for run, name in zip(runs, VARIANTS, strict=True):
        assert run.checkpoint.save == run.checkpoint.load == str(run_dir / name)
    return runs


def assert_ends_at_full_length(run):
    config = load_config(engine_json(run)).data_efficiency
    for name, schedule in config.schedules.items():
        end = run.data.seq_length if name == "seqlen_truncate" else 100
        assert schedule.difficulty(10**6) == end
    if config.random_ltd is not None:
        layers = tuple(range(1, run.model.num_layers - 1))
        assert config.random_ltd.random_ltd_layer_id == layers
        assert config.random_ltd.schedule.difficulty(10**6) == run.data.seq_length


@pytest.mark.parametrize("num_layers", [3, 6])
def test_variants_differ_in_their_configuration_alone(quick_start, caplog, num_layers):
    commands = dry_run(quick_start, NUM_LAYERS=str(num_layers))
    for run in variants_of(commands, quick_start.run_dir):
        assert run.model.num_layers == num_layers
        assert_ends_at_full_length(run)
    assert caplog.text == ""


def test_second_start_repeats_only_the_table(quick_start):
    first = quick_start.start()
    assert first.returncode == 0, first.stderr
    assert quick_start.tools() == STAGES
    assert quick_start.trained() == VARIANTS
    assert "7s of downloads" in first.stdout
    advice = first.stdout.partition("What to try next\n")[2].splitlines()
    assert len(advice) == 7
    assert all(re.match(r"  [A-Z][^:?]+[:?] |  {8}", line) for line in advice)
    second = quick_start.start()
    assert second.returncode == 0, second.stderr
    assert quick_start.tools() == ["report.py"]
    assert second.stdout.count("done before") == len(STAGES) - 1


def test_changed_setting_redoes_what_depends_on_it(quick_start):
    quick_start.start()
    quick_start.start(SEED="2")
    assert quick_start.tools() == STAGES[4:]
    quick_start.start(SEED="2", CURRICULUM_STEPS="17")
    assert quick_start.trained() == ["curriculum", "curriculum_random_ltd"]
    quick_start.start(SEED="2", CURRICULUM_STEPS="17", SEQ_LENGTH="128")
    assert quick_start.tools() == STAGES[3:]
    quick_start.start(SEED="2", CURRICULUM_STEPS="17", SEQ_LENGTH="128", VOCAB_SIZE="512")
    assert quick_start.tools() == STAGES[1:]


def test_changed_corpus_redoes_all(quick_start, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text("one")
    quick_start.start(CORPUS=str(text))
    quick_start.start(CORPUS=str(text))
    assert quick_start.tools() == ["report.py"]
    text.write_text("longer")
    quick_start.start(CORPUS=str(text))
    assert quick_start.tools()[0] == "prepare_demo_corpus.py"


def test_missing_corpus_is_one_clear_line(quick_start):
    result = quick_start.start(CORPUS="nowhere.jsonl")
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["error: CORPUS is nowhere.jsonl: no such file or folder"]
    assert quick_start.tools() == []


def test_lost_output_is_made_again(quick_start):
    quick_start.start()
    shutil.rmtree(quick_start.run_dir / "random_ltd")
    quick_start.start()
    assert quick_start.trained() == ["random_ltd"]


def test_failed_stage_stops_and_is_redone(quick_start):
    failed = quick_start.start(INTERRUPT="tokenizer")
    assert failed.returncode == 1
    assert quick_start.tools() == STAGES[:2]
    assert quick_start.start().returncode == 0
    assert quick_start.tools() == STAGES[1:]


def test_half_made_output_of_a_failed_stage_is_removed(quick_start):
    quick_start.start(INTERRUPT="difficulty")
    assert quick_start.tools() == STAGES[:4]
    leftover = quick_start.run_dir / "difficulty" / "leftover"
    leftover.touch()
    assert quick_start.start().returncode == 0
    assert not leftover.exists()


def test_stopped_training_is_continued_from_its_checkpoint(quick_start):
    stopped = quick_start.start(INTERRUPT="random_ltd")
    assert stopped.returncode == 130
    assert quick_start.trained() == ["baseline", "curriculum", "random_ltd"]
    checkpoint = quick_start.run_dir / "random_ltd" / "checkpoint"
    checkpoint.touch()
    assert quick_start.start().returncode == 0
    assert quick_start.trained() == ["random_ltd", "curriculum_random_ltd"]
    assert checkpoint.exists()


def test_outdated_checkpoint_is_not_continued(quick_start):
    quick_start.start(INTERRUPT="random_ltd")
    checkpoint = quick_start.run_dir / "random_ltd" / "checkpoint"
    checkpoint.touch()
    quick_start.start(LEARNING_RATE="1e-3")
    assert not checkpoint.exists()


def test_unknown_variant_is_refused(quick_start):
    result = quick_start.start(VARIANTS="baseline fast", DRY_RUN="1")
    assert result.returncode == 1
    assert "VARIANTS names fast" in result.stderr
