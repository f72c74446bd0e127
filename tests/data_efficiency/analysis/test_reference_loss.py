"""Mean token losses against a model whose probabilities are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.named_metrics import MetricSettings, metric_named
from data_efficiency.analysis.reference_loss import (
    MeanTokenLoss,
    ReferenceModel,
)

VOCAB_SIZE = 11
TABLE = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))


def bigram_model(device, shapes=None):
    """Row i holds the logits of what follows token i."""

    def logits(tokens):
        if shapes is not None:
            shapes.append(tuple(tokens.shape))
        return TABLE.to(device)[tokens]

    return ReferenceModel(logits=logits, vocab_size=VOCAB_SIZE, max_length=40)


def expected_losses(batch):
    log_probabilities = torch.log_softmax(TABLE.double(), dim=1).numpy()
    losses = []
    for start, length in zip(batch.starts, batch.lengths, strict=True):
        tokens = batch.tokens[start : start + length].astype(int)
        steps = -log_probabilities[tokens[:-1], tokens[1:]]
        losses.append(steps.mean() if len(steps) else 0.0)
    return losses


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 41), max_size=12),
    tokens_per_forward=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_losses_equal_a_loop(lengths, tokens_per_forward, seed):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, VOCAB_SIZE, 60).astype(np.uint16)
    lengths = np.array(lengths, dtype=np.int64)
    batch = TokenBatch(tokens, generator.integers(0, 60 - lengths + 1), lengths)
    function = MeanTokenLoss(bigram_model, tokens_per_forward=tokens_per_forward)
    assert np.allclose(function(batch), expected_losses(batch), rtol=1e-5)


def test_samples_of_similar_length_go_through_the_model_together():
    shapes, loads = [], []

    def load(device):
        loads.append(device)
        return bigram_model(device, shapes)

    function = MeanTokenLoss(load, tokens_per_forward=50)
    assert loads == [], "a model is loaded when the first batch comes"
    lengths = np.array([40, 10, 9, 1, 10])
    batch = TokenBatch(np.ones(60, np.uint16), np.zeros(5, np.int64), lengths)
    function(batch)
    function(batch)
    assert loads == [torch.device("cpu")]
    assert shapes == [(4, 9), (1, 39)] * 2


def test_bfloat16_is_close(monkeypatch):
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(TABLE.T.clone())
            self.dtypes = set()

        def forward(self, tokens):
            one_hot = torch.nn.functional.one_hot(tokens, VOCAB_SIZE).float()
            logits = torch.nn.functional.linear(one_hot, self.weight)
            self.dtypes.add(logits.dtype)
            return logits

    model = Linear()
    settings = MetricSettings(
        load_model=lambda device: ReferenceModel(logits=model.to(device), vocab_size=VOCAB_SIZE),
        model_identity={"name": "bigrams"},
        model_dtype="bfloat16",
    )
    metric = metric_named("reference_loss", None, "", settings)
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, 400).astype(np.uint16)
    batch = TokenBatch(tokens, np.arange(8) * 50, np.full(8, 50))
    losses = metric.function(batch)
    assert model.dtypes == {torch.bfloat16}
    assert np.allclose(losses, expected_losses(batch), rtol=1e-2)
    assert metric.parameters == {"model": {"name": "bigrams"}, "dtype": "bfloat16"}
    assert metric.dtype == "float32"


def test_samples_that_do_not_fit_are_refused():
    function = MeanTokenLoss(bigram_model)
    batch = TokenBatch(np.ones(60, np.uint16), np.array([0]), np.array([42]))
    with pytest.raises(ValueError, match="reads 40 tokens, a sample needs 41; analyze shorter"):
        function(batch)
    batch = TokenBatch(np.array([1, 11], np.uint16), np.array([0]), np.array([2]))
    message = "token 11 is outside the reference model's vocabulary of 11 entries; it was made"
    with pytest.raises(ValueError, match=message):
        function(batch)
    with pytest.raises(ValueError, match=r"dtype of the reference model is 'half': one of"):
        MeanTokenLoss(bigram_model, dtype="half")


@pytest.mark.gpu
def test_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    batch = TokenBatch(np.arange(11, dtype=np.uint16), np.array([0, 3]), np.array([11, 4]))
    losses = MeanTokenLoss(bigram_model, device="cuda")(batch)
    assert np.allclose(losses, expected_losses(batch), rtol=1e-4)
