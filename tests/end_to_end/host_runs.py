"""The scripts of docs/bring_your_own_model.md in the hosts themselves, each on a small model that writes down what it sees.

Started as a command for several processes and for kills: `host_runs.py HOST FOLDER STEPS RESUME`; the first
process is killed by SIGKILL in the forward after so many steps, 0 for never. What process R has seen in its training
forwards is appended to FOLDER/seen.R.jsonl, one line a forward; its weights' SHA-256 is in FOLDER/weights.R.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from data_efficiency import DifficultyIndex
from tests.end_to_end.tiny_runs import (
    NUM_LAYERS,
    ROOT,
    SEQ_LENGTH,
    curriculum_section,
    random_ltd_section,
)

PAGE = (ROOT / "docs" / "bring_your_own_model.md").read_text()
NUM_SAMPLES = 120
IDENTITY = {"type": "Texts", "num_samples": NUM_SAMPLES}
MICRO_BATCH_SIZE, ACCUMULATION = 2, 2
NUM_STEPS, SAVE_STEPS, KILLED_AFTER = 6, 2, 3
RANK = int(os.environ.get("RANK", "0"))


def blocks(title):
    """The Python examples of a section of the page."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def is_added(line):
    """Whether a line of an example is there for this library alone."""
    words = ("data_efficiency", "attach(", "efficiency", "figures", "rows_per_step", "sampler")
    return any(word in line for word in words)


class Texts(torch.utils.data.Dataset):
    """Sample i is the token i, again and again."""

    identity = IDENTITY

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, sample):
        tokens = torch.full((SEQ_LENGTH,), sample)
        return {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "labels": tokens,
        }


def rows():
    """The same samples as a Hugging Face dataset."""
    from datasets import Dataset  # noqa: PLC0415 - not in every host's environment

    tokens = [[sample] * SEQ_LENGTH for sample in range(NUM_SAMPLES)]
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens})


def write_inputs(folder, identity=None, **batch):
    """Write ds_config.json and the index that it names."""
    folder.mkdir(exist_ok=True)
    DifficultyIndex.write(
        folder / "difficulty" / "vocab_rarity",
        np.random.default_rng(0).integers(0, 99, NUM_SAMPLES),
        metric="vocab_rarity",
        dataset_identity=identity or IDENTITY,
    )
    content = batch | {
        "data_efficiency": {
            "data_sampling": {"curriculum_learning": curriculum_section(folder, total_steps=5)},
            "data_routing": {
                "random_ltd": random_ltd_section(total_steps=8, mask_name="attention_mask")
            },
        }
    }
    (folder / "ds_config.json").write_text(json.dumps(content))


def make_model(see, of=lambda model: model):
    """A small GPT-2; `see` is given the samples, length and kept tokens of each training forward.

    What is converted is what `of` gives of it.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=NUM_SAMPLES + 2,
        n_positions=SEQ_LENGTH,
        n_embd=8,
        n_layer=NUM_LAYERS,
        n_head=2,
        bos_token_id=NUM_SAMPLES,
        eos_token_id=NUM_SAMPLES,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)

    def write_down(module, _, keywords, __):
        if module.training:
            tokens, kept = keywords["input_ids"], of(module).random_ltd_scheduler.positions
            for name in ("labels", "attention_mask"):
                if name in keywords:
                    assert keywords[name].shape == tokens.shape
            kept = None if kept is None else kept.tolist()
            see((tokens[:, 0].tolist(), tokens.shape[1], kept))

    model.register_forward_hook(write_down, with_kwargs=True)
    return model


def trainer_settings(folder, resume):
    """What a Trainer's script would say of itself."""
    return {
        "output_dir": str(folder / "run"),
        "max_steps": NUM_STEPS,
        "save_steps": SAVE_STEPS,
        "logging_steps": 1,
        "per_device_train_batch_size": MICRO_BATCH_SIZE,
        "gradient_accumulation_steps": ACCUMULATION,
        "dataloader_num_workers": 1,
        "dataloader_pin_memory": False,
        "resume_from_checkpoint": resume,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "ddp_find_unused_parameters": False,
    }


def run_trainer(folder, see, resume, **settings):
    """The Trainer of transformers; returns the model."""
    from transformers import TrainingArguments  # noqa: PLC0415 - one host a process

    arguments = TrainingArguments(**trainer_settings(folder, resume) | settings)
    names = {"model": make_model(see), "arguments": arguments, "dataset": Texts()}
    exec(blocks("Hugging Face's Trainer")[0], names)
    return names["model"]


def run_sft(folder, see, resume, **settings):
    """The SFTTrainer of trl; returns the model."""
    from tokenizers import Tokenizer  # noqa: PLC0415
    from tokenizers.models import WordLevel  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415
    from trl import SFTConfig  # noqa: PLC0415

    words = {f"w{number}": number for number in range(NUM_SAMPLES)}
    words |= {"<end>": NUM_SAMPLES, "<pad>": NUM_SAMPLES + 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        eos_token="<end>",
        pad_token="<pad>",
    )
    own = {"bf16": False, "max_length": SEQ_LENGTH}
    arguments = SFTConfig(**trainer_settings(folder, resume) | own | settings)
    names = {"model": make_model(see), "arguments": arguments, "dataset": rows()}
    exec(blocks("Hugging Face's Trainer")[1], names | {"tokenizer": tokenizer})
    return names["model"]


class Stopped(Exception):
    """In place of a loop's end."""


def run_accelerate(folder, see, resume):
    """A loop with Accelerate; returns the model."""
    num_forwards = 0

    def see_or_stop(one):
        nonlocal num_forwards
        if num_forwards == num_left:
            raise Stopped
        num_forwards += 1
        see(one)

    model = make_model(see_or_stop)
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    names = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=0.01),
        "dataset": Texts(),
        "checkpoint": folder / "checkpoint",
        "num_epochs": 1,
        "save_samples": SAVE_STEPS * ACCUMULATION * MICRO_BATCH_SIZE * num_ranks,
    }
    num_left = ACCUMULATION * (NUM_STEPS - (SAVE_STEPS if resume else 0))
    with contextlib.suppress(Stopped):
        exec(blocks("Accelerate")[0], names)
    return model


def run_stateful(folder, see, resume):
    """A loop with torchdata's loader, which sees samples alone; returns a model that has learned nothing."""
    content = json.loads(Path("ds_config.json").read_text())
    content["data_efficiency"].pop("data_routing", None)
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning["curriculum_metrics"].pop("seqlen_truncate", None)
    Path("ds_config.json").write_text(json.dumps(content))
    num_left = ACCUMULATION * (NUM_STEPS - (KILLED_AFTER if resume else 0))

    def train_on(batch):
        nonlocal num_left
        if not num_left:
            raise Stopped
        num_left -= 1
        see((batch["input_ids"][:, 0].tolist(), SEQ_LENGTH, None))

    names = {
        "dataset": Texts(),
        "rank": RANK,
        "num_ranks": int(os.environ.get("WORLD_SIZE", "1")),
        "place": folder / f"place.{RANK}",
        "train_on": train_on,
    }
    with contextlib.suppress(Stopped):
        exec(blocks("Loaders with a state: torchdata, verl, SkyRL, torchtitan")[0], names)
    return make_model(see)


def run_lightning(folder, see, resume):
    """Lightning's Trainer; returns the model."""
    from lightning.pytorch import LightningModule  # noqa: PLC0415
    from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: PLC0415

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model(see)

        def training_step(self, batch, number):
            return self.model(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    saved = folder / "checkpoints"
    module = Module()
    names = {
        "module": module,
        "dataset": Texts(),
        "callbacks": [ModelCheckpoint(saved, every_n_train_steps=SAVE_STEPS, save_top_k=-1)],
        "checkpoint": max(saved.glob("*.ckpt"), default=None) if resume else None,
        "settings": {
            "max_steps": NUM_STEPS,
            "accelerator": "cpu",
            "devices": 1,
            "strategy": "auto",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
        },
    }
    if "WORLD_SIZE" in os.environ:
        names["settings"] |= {"devices": int(os.environ["WORLD_SIZE"]), "strategy": "ddp"}
    exec(blocks("Lightning")[0], names)
    return module.model


HOSTS = {
    "trainer": run_trainer,
    "sft": run_sft,
    "accelerate": run_accelerate,
    "lightning": run_lightning,
}


def run_composer(folder, see, resume):
    """Composer's Trainer; returns the model."""
    from composer.models import ComposerModel  # noqa: PLC0415

    class Model(ComposerModel):
        def __init__(self):
            super().__init__()
            self.net = make_model(see, of=lambda _: model)

        def forward(self, batch):
            return self.net(**batch)

        def loss(self, outputs, batch):
            return outputs.loss

    model = Model()
    saved = folder / "checkpoints"
    names = {
        "model": model,
        "dataset": Texts(),
        "settings": {
            "optimizers": torch.optim.AdamW(model.parameters(), lr=0.01),
            "max_duration": f"{NUM_STEPS}ba",
            "device": "cpu",
            "save_folder": str(saved),
            "save_filename": "{batch}.pt",
            "save_interval": f"{SAVE_STEPS}ba",
            "save_overwrite": True,
            "load_path": str(saved / f"{SAVE_STEPS}.pt") if resume else None,
            "progress_bar": False,
            "loggers": [],
        },
    }
    exec(blocks("Composer")[0], names)
    return model.net


APART = {"composer": run_composer}
"""Hosts in an environment of their own."""
ALONE = {"stateful": run_stateful}
"""Hosts whose processes know nothing of each other, and whose forwards are not looked at."""
IDENTITIES = {"sft": {"type": "Dataset", "num_samples": NUM_SAMPLES}}
"""Where the host's dataset has no identity of its own."""


def main(host, folder, num_steps, resume):
    """Run a host in this process."""
    os.chdir(folder)
    seen = (folder / f"seen.{RANK}.jsonl").open("a")
    num_forwards = 0

    def see(one):
        nonlocal num_forwards
        num_forwards += 1
        seen.write(json.dumps(one) + "\n")
        seen.flush()
        is_killed = RANK == 0 or host in ALONE
        if is_killed and num_steps and num_forwards == num_steps * ACCUMULATION + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    model = (HOSTS | APART | ALONE)[host](folder, see, resume)
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    (folder / f"weights.{RANK}").write_text(digest.hexdigest())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "resume" or None)
