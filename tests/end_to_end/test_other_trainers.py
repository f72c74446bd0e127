"""The examples of docs/other_trainers.md, run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_efficiency import CurriculumSampler, DifficultyIndex, load_config
from tests.end_to_end.tiny_runs import ROOT, curriculum_section

PAGE = (ROOT / "docs" / "other_trainers.md").read_text()
PLAIN, HUGGING_FACE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


class Numbers(torch.utils.data.Dataset):
    """Sample i is the number i."""

    def __len__(self):
        return 120

    def __getitem__(self, sample):
        return {"sample": torch.tensor(sample), "length": torch.zeros(32)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with ds_config.json and the index it names."""
    DifficultyIndex.write(
        tmp_path / "difficulty" / "vocab_rarity",
        np.random.default_rng(0).integers(0, 99, 120),
        metric="vocab_rarity",
        dataset_identity={"type": "Numbers", "num_samples": 120},
    )
    sampling = {"num_epochs": 3, "curriculum_learning": curriculum_section(tmp_path)}
    content = {"data_efficiency": {"data_sampling": sampling}}
    (tmp_path / "ds_config.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def global_batches(num_steps, num_rows):
    """What an unbroken run draws at each step, int64 [steps, rows]."""
    settings = load_config("ds_config.json").data_efficiency
    sampler = CurriculumSampler(Numbers(), settings, micro_batch_size=num_rows)
    return np.stack([sampler.next_global_batch().samples for _ in range(num_steps)])


class Stopped(Exception):
    """In place of a kill."""


def run_plain(folder, rank, num_ranks, num_steps):
    """The samples of each step of the example, stopped in the middle of the one after."""
    seen = []

    def train_step(batch):
        if len(seen) == num_steps:
            raise Stopped
        seen.append(batch["sample"].tolist())

    place = folder / f"place{rank}.json"
    names = {"dataset": Numbers(), "rank": rank, "num_ranks": num_ranks, "place": place}
    with pytest.raises(Stopped):
        exec(PLAIN, names | {"train_step": train_step})
    return seen


def test_plain_pytorch(folder):
    expected = global_batches(12, 8)
    first = [run_plain(folder, rank, 2, 5) for rank in (0, 1)]
    rest = [run_plain(folder, rank, 2, 7) for rank in (0, 1)]
    seen = np.concatenate([np.array(first), np.array(rest)], axis=1)
    assert np.concatenate(seen, axis=1).tolist() == expected.tolist()


def test_plain_pytorch_on_another_number_of_ranks(folder):
    expected = global_batches(6, 8)
    for rank in (0, 1):
        run_plain(folder, rank, 2, 3)
    settings = load_config("ds_config.json").data_efficiency
    sampler = CurriculumSampler(Numbers(), settings, micro_batch_size=8)
    sampler.load_state_dict(json.loads((folder / "place0.json").read_text()))
    assert [batch for batch, _ in zip(sampler, range(3), strict=False)] == expected[3:].tolist()


class Model(torch.nn.Module):
    """Writes down the samples it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, sample, length):
        self.seen.append(sample.tolist())
        return {"loss": (self.weight * sample.float()).mean()}


def train_with_hugging_face(folder):
    """Six steps of this process in one go, then steps 4 to 6 again from the checkpoint after step 3."""
    import transformers  # noqa: PLC0415  seconds, for these tests only

    names = {"__name__": "example"}
    exec(HUGGING_FACE, names)
    seen = []
    for checkpoint in (None, str(folder / "run" / "checkpoint-3")):
        model = Model()
        arguments = transformers.TrainingArguments(
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
        trainer = names["CurriculumTrainer"](
            model, arguments, train_dataset=Numbers(), callbacks=[names["SaveCurriculum"]()]
        )
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
        seen.append(model.seen)
    return seen


def test_hugging_face_trainer(folder):
    whole, resumed = train_with_hugging_face(folder)
    expected = global_batches(6, 4)
    assert np.array(whole).reshape(6, 4).tolist() == expected.tolist()
    assert np.array(resumed).reshape(3, 4).tolist() == expected[3:].tolist()


@pytest.mark.full
def test_hugging_face_trainer_in_two_processes(folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TORCHRUN, "-m", "tests.end_to_end.test_other_trainers"]
    done = subprocess.run(
        [*command, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = global_batches(6, 8)
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for run, steps in ((0, slice(0, 6)), (1, slice(3, 6))):
        rows = [np.array(seen[run]).reshape(-1, 4) for seen in ranks]
        assert np.concatenate(rows, axis=1).tolist() == expected[steps].tolist()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    result = train_with_hugging_face(place)
    (place / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))
