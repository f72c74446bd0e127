"""The examples of docs/bring_your_own_model.md, run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_efficiency import DifficultyIndex
from tests.end_to_end import host_runs
from tests.end_to_end.host_runs import IDENTITY, NUM_SAMPLES, blocks
from tests.end_to_end.tiny_runs import ROOT, curriculum_section, random_ltd_section

PLAIN = blocks("Plain PyTorch")[0]
ENGINE = blocks("DeepSpeed, or DDP without writing it")[0]


class Stopped(Exception):
    """In place of a kill."""


class Texts(host_runs.Texts):
    """As those, but none is read after so many items."""

    def __init__(self, num_items=10**9):
        self.num_items = num_items

    def __getitem__(self, sample):
        self.num_items -= 1
        if self.num_items < 0:
            raise Stopped
        return super().__getitem__(sample)


def make_model(seen):
    """A small GPT-2 that writes down, at each training forward, its samples, length and kept tokens."""
    return host_runs.make_model(seen.append)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with ds_config.json and the index it names."""
    DifficultyIndex.write(
        tmp_path / "difficulty" / "vocab_rarity",
        np.random.default_rng(0).integers(0, 99, NUM_SAMPLES),
        metric="vocab_rarity",
        dataset_identity=IDENTITY,
    )
    sampling = {"num_epochs": 1, "curriculum_learning": curriculum_section(tmp_path)}
    content = {
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 4,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
        "data_efficiency": {
            "data_sampling": sampling,
            "data_routing": {"random_ltd": random_ltd_section(mask_name="attention_mask")},
        },
    }
    (tmp_path / "ds_config.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def whole_run(**batch):
    """What an unbroken run of an engine sees: one entry a micro-batch."""
    seen = []
    config = json.loads(Path("ds_config.json").read_text()) | batch
    names = {"model": make_model(seen), "dataset": Texts()}
    exec(
        ENGINE.replace('"ds_config.json", engine="deepspeed"', "config"), names | {"config": config}
    )
    assert len({length for _, length, _ in seen}) > 1
    assert any(kept is not None for _, _, kept in seen)
    return seen


def test_plain_pytorch_stopped_on_two_ranks(folder):
    found = []
    for rank in (0, 1):
        seen, place = [], folder / f"place{rank}.json"
        # Four items a step: the first start stops before step 6, the second has an end.
        for dataset in (Texts(5 * 4), Texts()):
            model = make_model(seen)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            names = {"model": model, "optimizer": optimizer, "dataset": dataset, "place": place}
            names |= {"rank": rank, "num_ranks": 2}
            if dataset.num_items < 100:
                with pytest.raises(Stopped):
                    exec(PLAIN, names)
                assert len(seen) == 5
            else:
                exec(PLAIN, names)
        found.append(seen)
    together = [one for step in zip(*found, strict=True) for one in step]
    # The first rank's rows and then the second's are those of two micro-batches of one process.
    assert together == whole_run()


def test_it_is_fifteen_lines():
    own = ("for batch", "loss", "optimizer", "model.train()")
    lines = re.sub(r"\(\n[^)]*\n\)", "()", PLAIN).splitlines()
    added = [line for line in lines if line.strip() and not line.strip().startswith(own)]
    assert len(added) <= 15


@pytest.mark.filterwarnings("ignore")
def test_engine(folder):
    assert len(whole_run()) == NUM_SAMPLES // 4
    names = {"model": make_model([]), "dataset": Texts()}
    exec(ENGINE.replace('engine="deepspeed"', 'engine="torch"'), names)
    assert names["place"]["counters"]["steps"] == NUM_SAMPLES // 8
    make_model([]).load_state_dict(names["weights"])


@pytest.mark.full
def test_deepspeed(folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.end_to_end.test_bring_your_own_model"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "seen.json").read_text())
    assert [tuple(one) for one in found] == whole_run()


if __name__ == "__main__":
    forwards = []
    exec(ENGINE, {"model": make_model(forwards), "dataset": Texts()})
    Path("seen.json").write_text(json.dumps(forwards))
