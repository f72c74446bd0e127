"""A small workspace, and a server that runs the commands of all stages with faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.end_to_end.tiny_runs import SEQ_LENGTH, training_flags, write_composed, write_text

ROOT = Path(__file__).resolve().parents[2]
ERRORS = {"ENOSPC": 28, "EIO": 5}
ACTIONS = ERRORS | {name: -getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT")}


class Ended(NamedTuple):
    """How a command ended: its exit code, or minus the signal; operations counted; what it printed."""

    code: int
    operations: int
    output: str


class Stages:
    """The commands of all stages, each in a folder of its own."""

    def __init__(self, library, folder):
        self.folder = folder
        self._output = folder / "output"
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.stage_server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command, arguments, under, fault=("any", 0, 0)):
        """Runs a command with a fault at an operation below a folder."""
        request = {
            "command": command,
            "argv": list(map(str, arguments)),
            "fault": [str(under), *fault],
            "output": str(self._output),
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code, operations = json.loads(self._server.stdout.readline())
        return Ended(code, operations, self._output.read_text(errors="replace"))

    def finish(self, command, arguments, under):
        """Runs a command without a fault; how many operations it had."""
        ended = self.run(command, arguments, under)
        assert ended.code == 0, ended.output
        return ended.operations

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(60)


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("faults are made by a preloaded library: Linux and a C compiler are needed")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        library,
        source,
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="session")
def stages(fault_library, tmp_path_factory):
    stages = Stages(fault_library, tmp_path_factory.mktemp("stages"))
    yield stages
    stages.close()


@pytest.fixture(scope="session")
def made(stages):
    """A folder with text, tokenizer, corpus, difficulty index and the JSON file of both techniques."""
    folder = stages.folder / "made"
    folder.mkdir()
    write_text(folder / "text.jsonl")
    write_text(folder / "other.jsonl", num_documents=60, seed=1)
    for command, arguments in (
        ("tools.train_tokenizer", tokenizer_arguments(folder, folder / "tokenizer.json")),
        ("tools.preprocess_data", preprocessing_arguments(folder, folder / "corpus")),
        ("tools.analyze_data", analysis_arguments(folder, folder / "difficulty")),
    ):
        stages.finish(command, arguments, folder)
    write_composed(folder / "composed.json", folder)
    return folder


def tokenizer_arguments(made, output, text="text.jsonl"):
    return ["--input", made / text, "--vocab-size", 400, "--output", output, "--overwrite"]


def preprocessing_arguments(made, prefix, text="text.jsonl"):
    return [
        *("--input", made / text, "--workers", 1, "--tokenizer-file", made / "tokenizer.json"),
        *("--append-eod", "--output-prefix", prefix, "--overwrite"),
    ]


def analysis_arguments(made, save, metric="vocab_rarity"):
    return [
        *("run", "--data-path", made / "corpus_text_document", "--split", "9,1,0"),
        *("--seq-length", SEQ_LENGTH, "--metric", metric, "--save", save, "--overwrite"),
    ]


def run_arguments(made, save, **flags):
    flags = {"train_iters": 6, "save_interval": 2, "save": save, "load": save} | flags
    return training_flags(
        made,
        deepspeed_config=made / "composed.json",
        random_ltd=True,
        data_efficiency_curriculum_learning=True,
        allow_missing_checkpoint=True,
        hidden_dropout=0.1,
        **flags,
    )
