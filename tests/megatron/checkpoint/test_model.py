"""A checkpoint of ours scores text as the model that wrote it."""

from dataclasses import asdict
from functools import partial

import pytest
import torch

from data_efficiency.engine.whole_tensor import whole_tensors
from megatron.checkpoint.model import checkpoint_in, identity_of_checkpoint, load_reference_model
from megatron.checkpoint.saving import save_checkpoint
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel

CONFIG = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    vocab_size=50,
    max_position_embeddings=32,
    hidden_dropout=0.1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the checkpoints of steps 1 and 2, and its last model."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = GPTModel(CONFIG)
    for step in (1, 2):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        tokens = torch.arange(20)[None]
        model(tokens, labels=tokens).backward()
        optimizer.step()
        state = {"model": asdict(CONFIG)}
        weights = whole_tensors(model.state_dict())
        save_checkpoint(folder, step, weights=weights, optimizer_state=[], state=state, keep_last=0)
    return folder, model


def test_logits_are_those_of_the_model_without_dropout(run):
    folder, model = run
    loaded = load_reference_model(torch.device("cpu"), checkpoint=checkpoint_in(folder))
    tokens = torch.arange(30).reshape(2, 15)
    assert torch.equal(loaded.logits(tokens), model.eval()(tokens))
    assert (loaded.vocab_size, loaded.max_length) == (50, 32)


def test_folder_of_a_run_and_of_a_step(run):
    folder, _ = run
    assert checkpoint_in(folder) == folder / "global_step2"
    assert checkpoint_in(folder / "global_step1") == folder / "global_step1"
    assert checkpoint_in(folder / "nothing") is None
    first, second = (identity_of_checkpoint(folder / f"global_step{step}") for step in (1, 2))
    assert (first["step"], second["step"]) == (1, 2)
    assert first["sha256"] != second["sha256"]


def test_damaged_checkpoint_is_refused(run, tmp_path):
    folder, _ = run
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (folder / "global_step1").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    load = partial(load_reference_model, checkpoint=copy)
    with pytest.raises(ValueError, match=r"model.safetensors was changed"):
        load(torch.device("cpu"))
