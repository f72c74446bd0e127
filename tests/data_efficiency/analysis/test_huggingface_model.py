"""A causal language model of Hugging Face from a folder."""

from functools import partial

import numpy as np
import pytest
import torch

from data_efficiency.analysis.huggingface_model import (
    identity_of_huggingface_model,
    load_huggingface_model,
)
from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.reference_loss import MeanTokenLoss


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny GPT-2, as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("model")
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_loss_is_that_of_the_model_itself(folder):
    """The model's own loss, one sample at a time, with no padding."""
    transformers = pytest.importorskip("transformers")
    tokens = np.random.default_rng(0).integers(0, 50, 100).astype(np.uint16)
    batch = TokenBatch(tokens, np.array([0, 20, 50]), np.array([20, 30, 7]))
    function = MeanTokenLoss(partial(load_huggingface_model, folder=folder))
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    expected = []
    for start, length in zip(batch.starts, batch.lengths, strict=True):
        ids = torch.from_numpy(tokens[start : start + length].astype(np.int64))[None]
        expected.append(model(input_ids=ids, labels=ids).loss.item())
    assert np.allclose(function(batch), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="reads 32 tokens, a sample needs 33"):
        function(TokenBatch(tokens, np.array([0]), np.array([34])))
    with pytest.raises(ValueError, match="token 50 is outside the reference model's vocabulary of"):
        function(TokenBatch(np.array([50, 1]), np.array([0]), np.array([2])))


def test_identity_follows_the_weights(folder, tmp_path):
    identity = identity_of_huggingface_model(folder)
    assert sorted(identity) == ["config.json", "model.safetensors"]
    for name in identity:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert identity_of_huggingface_model(tmp_path) == identity
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert identity_of_huggingface_model(tmp_path) != identity
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"needs config.json and \*.safetensors; save the"):
        identity_of_huggingface_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no Hugging Face model"):
        identity_of_huggingface_model(tmp_path / "nothing")
