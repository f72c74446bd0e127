"""Tiny runs of the commands: made-up text, JSON sections, command lines."""

import json
import random
from pathlib import Path

import numpy as np

from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.json_sections import length_metric, metric, random_ltd

ROOT = Path(__file__).resolve().parents[2]
SEQ_LENGTH = 32
NUM_LAYERS = 4


def write_text(path, num_documents=240, seed=0):
    """JSON lines of made-up sentences; later documents use rarer words."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghijklmnop", k=4)) for _ in range(300)]
    lines = []
    for number in range(num_documents):
        known = words[: 10 + number]
        text = " ".join(generator.choice(known) for _ in range(generator.randint(20, 60)))
        lines.append(json.dumps({"text": text}))
    generator.shuffle(lines)
    path.write_text("\n".join(lines) + "\n")


def write_two_corpora(folder):
    """Weights and paths of a blend; the first corpus has the tokens 0..99, the second 100..199."""
    for name, low, num_samples in (("a", 0, 40), ("b", 100, 15)):
        tokens = np.random.default_rng(low).integers(low, low + 100, num_samples * SEQ_LENGTH + 30)
        with IndexedDatasetWriter(str(folder / name), np.dtype("uint16")) as writer:
            lengths = np.full(len(tokens) // 10, 10, np.int32)
            writer.add_documents(tokens[: lengths.sum()].astype(np.uint16), lengths)
    return ["0.7", str(folder / "a"), "0.3", str(folder / "b")]


def curriculum_section(workspace, total_steps=12):
    index = workspace / "difficulty" / "vocab_rarity"
    return {
        "enabled": True,
        "curriculum_metrics": {
            "vocab_rarity": metric(index, steps=total_steps),
            "seqlen_truncate": length_metric(8, SEQ_LENGTH, steps=total_steps),
        },
    }


def random_ltd_section(total_steps=16, mask_name=None, num_layers=NUM_LAYERS):
    return random_ltd(num_layers, 4, SEQ_LENGTH, total_steps, model_mask_name=mask_name)


def write_composed(path, workspace, *, stage=None, reshape=False, num_workers=0, **switches):
    """Writes a JSON file with curriculum and random-LTD; `curriculum`, `dropping` switch them off."""
    curriculum, dropping = curriculum_section(workspace), random_ltd_section()
    if reshape:
        metrics = curriculum["curriculum_metrics"]
        metrics["seqlen_reshape"] = metrics.pop("seqlen_truncate")
    curriculum["enabled"] = switches.get("curriculum", True)
    dropping["enabled"] = switches.get("dropping", True)
    sampling = {"num_workers": num_workers, "curriculum_learning": curriculum}
    section = {"data_sampling": sampling, "data_routing": {"random_ltd": dropping}}
    engine = {} if stage is None else {"zero_optimization": {"stage": stage}}
    path.write_text(json.dumps(engine | {"data_efficiency": section}))
    return path


def training_flags(workspace, **flags):
    """The command line of a tiny run; keyword arguments are flags, True and None ones bare or out."""
    values = {
        "data_path": workspace / "corpus_text_document",
        "tokenizer_file": workspace / "tokenizer.json",
        "split": "9,1,0",
        "seq_length": SEQ_LENGTH,
        "num_layers": NUM_LAYERS,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "vocab_size": 400,
        "max_position_embeddings": SEQ_LENGTH,
        "micro_batch_size": 4,
        "global_batch_size": 8,
        "train_iters": 20,
        "lr": 1e-3,
        "eval_interval": 10,
        "eval_iters": 1,
        "log_interval": 1,
    } | flags
    arguments = []
    for name, value in values.items():
        if value is None:
            continue
        flag = "--deepspeed_config" if name == "deepspeed_config" else f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    return arguments


def composed_flags(workspace, config, **flags):
    return training_flags(
        workspace,
        deepspeed_config=config,
        random_ltd=True,
        data_efficiency_curriculum_learning=True,
        **flags,
    )
