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
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from data_efficiency import CurriculumSampler, DifficultyIndex, load_config
from tests.end_to_end.tiny_runs import (
    NUM_LAYERS,
    ROOT,
    SEQ_LENGTH,
    curriculum_section,
    random_ltd_section,
)

PAGE = (ROOT / "docs" / "bring_your_own_model.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def example(phrase):
    """The one example of the page that has a phrase."""
    (found,) = [block for block in BLOCKS if phrase in block]
    return found


LINES, PLAIN = example("DataEfficiencyConfig.of"), example("CurriculumDataLoader(dataset, sampler)")
ENGINE, DATA_LOADER = example("engine.train_step"), example("batch_sampler=")
HUGGING_FACE = example("from transformers import Trainer")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
NUM_SAMPLES = 120


class Stopped(Exception):
    """In place of a kill."""


class Texts(torch.utils.data.Dataset):
    """Sample i is the token i, again and again; none is read after so many items."""

    def __init__(self, num_items=10**9):
        self.num_items = num_items

    identity = {"type": "Texts", "num_samples": NUM_SAMPLES}

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, sample):
        self.num_items -= 1
        if self.num_items < 0:
            raise Stopped
        tokens = torch.full((SEQ_LENGTH,), sample)
        return {"input_ids": tokens, "labels": tokens}


def make_model(seen):
    """A small GPT-2 that writes down, at each training forward, its samples, length and kept tokens."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=NUM_SAMPLES, n_positions=SEQ_LENGTH, n_embd=8, n_layer=NUM_LAYERS, n_head=2
    )
    model = GPT2LMHeadModel(config)

    def write_down(module, _, keywords, __):
        if module.training:
            tokens, kept = keywords["input_ids"], module.random_ltd_scheduler.positions
            seen.append(
                (tokens[:, 0].tolist(), tokens.shape[1], None if kept is None else kept.tolist())
            )

    model.register_forward_hook(write_down, with_kwargs=True)
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with ds_config.json and the index it names."""
    DifficultyIndex.write(
        tmp_path / "difficulty" / "vocab_rarity",
        np.random.default_rng(0).integers(0, 99, NUM_SAMPLES),
        metric="vocab_rarity",
        dataset_identity=Texts.identity,
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
    run_here(folder, "deepspeed")
    found = json.loads((folder / "rank0.json").read_text())
    assert [tuple(one) for one in found[0]] == whole_run()


def test_lines_of_python_go_where_the_file_goes(folder):
    names = {}
    exec(LINES.replace("start=64", "start=8").replace("start=128", "start=16"), names)
    seen = []
    here = {"dataset": Texts(), "model": make_model(seen), "rank": 0, "num_ranks": 1}
    here |= {"place": folder / "place.json", "config": names["config"]}
    here["optimizer"] = torch.optim.SGD(here["model"].parameters(), lr=0.1)
    script = PLAIN.replace('load_config("ds_config.json")', "load_config(config)")
    with pytest.raises(Stopped):
        exec(script, here | {"dataset": Texts(num_items=16 + 12)})
    assert [length for _, length, _ in seen[:2]] == [8, 8]


def train_with_hugging_face(folder):
    """Six steps of this process in one go, then steps 4 to 6 again from the checkpoint after step 3."""
    runs = []
    for checkpoint in (None, str(folder / "run" / "checkpoint-3")):
        seen = []
        arguments = TrainingArguments(
            output_dir=str(folder / "run"),
            max_steps=6,
            save_steps=3,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            dataloader_num_workers=1,
            dataloader_pin_memory=False,
            ignore_data_skip=True,
            remove_unused_columns=False,
            resume_from_checkpoint=checkpoint,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            ddp_find_unused_parameters=False,
        )
        names = {"__name__": "example", "model": make_model(seen), "arguments": arguments}
        content = json.loads((folder / "ds_config.json").read_text())
        # Batch sizes and the optimizer are the Trainer's own.
        config = {"data_efficiency": content["data_efficiency"]}
        script = HUGGING_FACE.replace('"ds_config.json"', "config")
        exec(script, names | {"dataset": Texts(), "config": config})
        runs.append(seen)
    return runs


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(folder):
    whole, resumed = train_with_hugging_face(folder)
    expected = whole_run(train_batch_size=4, train_micro_batch_size_per_gpu=2)
    assert whole == expected[:12]
    assert resumed == expected[6:12]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer_in_two_processes(folder):
    run_here(folder, "hugging_face", *TORCHRUN)
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    expected = whole_run(train_batch_size=8, train_micro_batch_size_per_gpu=2)
    for run, steps in ((0, range(6)), (1, range(3, 6))):
        # A step is four micro-batches: two of the first rank, then two of the second.
        found = [
            tuple(one)
            for number in range(len(steps))
            for seen in ranks
            for one in seen[run][2 * number : 2 * number + 2]
        ]
        assert found == expected[4 * steps[0] : 4 * steps[-1] + 4]


def run_here(folder, what, *launch):
    """Runs one of the examples in processes of its own, which leave what they have seen."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    module = "tests.end_to_end.test_bring_your_own_model"
    command = [sys.executable, *launch, "-m", module, str(folder), what]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def global_batches(num_steps, num_rows):
    """What an unbroken run draws at each step, int64 [steps, rows]."""
    settings = load_config("ds_config.json").data_efficiency
    sampler = CurriculumSampler(Texts(), settings, micro_batch_size=num_rows)
    return np.stack([sampler.next_global_batch().samples for _ in range(num_steps)])


def run_data_loader(folder, rank, num_steps):
    """The samples of each step of the example, stopped in the middle of the one after."""
    seen = []

    def train_on(batch):
        if len(seen) == num_steps:
            raise Stopped
        seen.append(batch["input_ids"][:, 0].tolist())

    place = folder / f"place{rank}.json"
    names = {"dataset": Texts(), "rank": rank, "num_ranks": 2, "place": place}
    with pytest.raises(Stopped):
        exec(DATA_LOADER, names | {"train_on": train_on})
    return seen


def test_data_loader(folder):
    expected = global_batches(12, 8)
    first = [run_data_loader(folder, rank, 5) for rank in (0, 1)]
    rest = [run_data_loader(folder, rank, 7) for rank in (0, 1)]
    seen = np.concatenate([np.array(first), np.array(rest)], axis=1)
    assert np.concatenate(seen, axis=1).tolist() == expected.tolist()


def test_data_loader_on_another_number_of_ranks(folder):
    expected = global_batches(6, 8)
    for rank in (0, 1):
        run_data_loader(folder, rank, 3)
    settings = load_config("ds_config.json").data_efficiency
    sampler = CurriculumSampler(Texts(), settings, micro_batch_size=8)
    sampler.load_state_dict(json.loads((folder / "place0.json").read_text()))
    assert [batch for batch, _ in zip(sampler, range(3), strict=False)] == expected[3:].tolist()


if __name__ == "__main__":
    workspace, example = Path(sys.argv[1]), sys.argv[2]
    if example == "hugging_face":
        result = train_with_hugging_face(workspace)
    else:
        result = [[]]
        exec(ENGINE, {"model": make_model(result[0]), "dataset": Texts()})
    rank = os.environ.get("RANK", "0")
    (workspace / f"rank{rank}.json").write_text(json.dumps(result))
