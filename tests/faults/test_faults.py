"""Killed, stopped by a signal, a full disk, a failing disk, at any operation of any stage: nothing is lost.

What was there before is whole, or what was to be is; the same command afterwards ends as if nothing had
happened. Real processes, real signals, real errors of the system's calls (see faults.c).
"""

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from data_efficiency import DifficultyIndex
from megatron.checkpoint.files import find_checkpoint, verify
from megatron.data.indexed_dataset import IndexedDataset
from tests.faults.conftest import (
    ACTIONS,
    ERRORS,
    analysis_arguments,
    preprocessing_arguments,
    run_arguments,
    tokenizer_arguments,
)

pytestmark = pytest.mark.timeout(1800)


class Stage(NamedTuple):
    """A command that replaces or continues what an earlier one made in a folder."""

    command: str
    old: Callable[[Path, Path], list[object]]
    """(workspace, folder) -> the earlier command's arguments."""
    new: Callable[[Path, Path], list[object]]
    read: Callable[[Path], object]
    """What lies in the folder, after checking that it is whole; comparable."""


def read_corpus(folder):
    corpus = IndexedDataset(folder / "c_text_document")
    corpus.verify()
    return corpus.metadata["sources"], corpus.tokens.tolist(), corpus.sequence_lengths.tolist()


def read_index(folder):
    index = DifficultyIndex.open(folder / "vocab_rarity")
    index.verify()
    return index.manifest["dataset"]["sequence_length"], index.values.tolist()


def read_run(folder):
    """Every checkpoint is whole; those of the last step and the log's steps, if they are there."""
    for checkpoint in folder.glob("global_step*"):
        verify(checkpoint)
    found = find_checkpoint(folder)
    assert found.problems == ()
    last = folder / "global_step6"
    if found.step != 6:
        return None
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().split("\n")[:-1]]
    engine = json.loads((last / "state.json").read_text())["engine"]
    return (
        # A finished run that is started again is measured once more.
        {(line["kind"], line["step"], line["loss"]) for line in steps if "loss" in line},
        *((last / f"{part}.safetensors").read_bytes() for part in ("model", "optimizer")),
        {key: value for key, value in engine.items() if "seconds" not in key},
    )


STAGES = {
    "tokenizer": Stage(
        "tools.train_tokenizer",
        lambda made, folder: tokenizer_arguments(made, folder / "t.json", "other.jsonl"),
        lambda made, folder: tokenizer_arguments(made, folder / "t.json"),
        lambda folder: (folder / "t.json").read_bytes(),
    ),
    "preprocessing": Stage(
        "tools.preprocess_data",
        lambda made, folder: preprocessing_arguments(made, folder / "c", "other.jsonl"),
        lambda made, folder: preprocessing_arguments(made, folder / "c"),
        read_corpus,
    ),
    "analysis": Stage(
        "tools.analyze_data",
        lambda made, folder: [*analysis_arguments(made, folder), "--seq-length", 16],
        analysis_arguments,
        read_index,
    ),
    "training": Stage(
        "pretrain_gpt",
        lambda made, folder: run_arguments(made, folder, train_iters=2, lr_decay_iters=6),
        run_arguments,
        read_run,
    ),
}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class Prepared(NamedTuple):
    """A stage's folder before, what is in it before and afterwards, and how many operations that takes."""

    before: Path
    old: object
    new: object
    names: list[str]
    num_operations: int


@pytest.fixture(scope="session")
def prepared(stages, made):
    """Stage name -> the `Prepared` of it, made once."""
    known = {}

    def prepare(name):
        if name not in known:
            stage, before = STAGES[name], stages.folder / f"{name}.before"
            work = stages.folder / name
            work.mkdir()
            stages.finish(stage.command, stage.old(made, work), work)
            old = stage.read(work)
            shutil.copytree(work, before)
            num = stages.finish(stage.command, stage.new(made, work), work)
            known[name] = Prepared(before, old, stage.read(work), names(work), num)
            assert old != known[name].new
        return known[name]

    return prepare


def check_end(name, action, ended):
    """The exit code and the one line say what happened."""
    assert "Traceback" not in ended.output, ended.output
    # Analysis takes both signals for Ctrl-C.
    terminated = 130 if name == "analysis" else 143
    expected = {"SIGKILL": -signal.SIGKILL, "SIGTERM": terminated, "SIGINT": 130}.get(action, 1)
    if name == "training" and action in ("SIGTERM", "SIGINT"):
        # It saves and leaves; before the loop a signal does what it always does.
        assert ended.code in (0, 75, -signal.SIGTERM, 130), ended.output
        assert (ended.code == 75) == (f"signal {action}" in ended.output)
    elif action in ERRORS:
        # What is only tidied up may stay.
        assert ended.code in (0, expected), ended.output
        if ended.code:
            assert ended.output.splitlines()[-1].startswith("error: "), ended.output
    else:
        assert ended.code == expected, ended.output


def inject(stages, made, prepared, name, action, operation):
    stage, ready, work = STAGES[name], prepared(name), stages.folder / name
    shutil.rmtree(work)
    shutil.copytree(ready.before, work)
    where = f"{name}: {action} at operation {operation} of {ready.num_operations}"
    fault = ("any", operation, ACTIONS[action])
    ended = stages.run(stage.command, stage.new(made, work), work, fault)
    assert ended.operations == -1 or ended.operations >= operation, where
    check_end(name, action, ended)
    assert stage.read(work) in (ready.old, ready.new), where
    again = stages.run(stage.command, stage.new(made, work), work)
    assert again.code == 0, f"{where}\n{again.output}"
    assert stage.read(work) == ready.new, where
    return [file for file in names(work) if file not in ready.names]


@pytest.mark.parametrize("action", ["SIGKILL", "SIGTERM", "ENOSPC"])
@pytest.mark.parametrize("name", STAGES)
def test_one_fault(stages, made, prepared, name, action):
    """At one operation of each stage, in the quick form."""
    generator = random.Random(f"{name} {action}")
    operation = generator.randint(1, prepared(name).num_operations)
    inject(stages, made, prepared, name, action, operation)


@pytest.mark.full
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", STAGES)
def test_many_faults(stages, made, prepared, name, action):
    """At up to 20 operations, the first, the last and others between."""
    number = prepared(name).num_operations
    chosen = {1, number, *random.Random(number).sample(range(1, number + 1), min(18, number))}
    for operation in sorted(chosen):
        inject(stages, made, prepared, name, action, operation)
