"""The difficulty metric `reference_loss`: how badly a given language model predicts a sample.

The model comes as a function that loads it, called where it is needed: each worker process loads its
own, and nothing is loaded if nothing is left to compute.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from data_efficiency.analysis.metrics import TokenBatch
from data_efficiency.analysis.padding import groups_by_length, padded_rows

TOKENS_PER_FORWARD = 4096
# Logits are turned into losses in parts, so that their float32 copy stays small.
LOGITS_PER_PART = 2**25
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ReferenceModel:
    """A causal language model on its device, ready to predict."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    """From tokens, int64 [batch, length], to logits, [batch, length, at least vocab_size]."""
    vocab_size: int
    """Tokens are numbers below this."""
    max_length: int | None = None
    """Longest input it takes, if there is a limit."""


LoadModel = Callable[[torch.device], ReferenceModel]


class MeanTokenLoss:
    """Mean cross entropy of each sample's tokens after its first, given those before.

    The last bits depend on the device and on the number of threads.

    Args:
        dtype: "float32", or "bfloat16" for matrix products in bfloat16 (autocast).
        tokens_per_forward: samples of similar length go through the model together, up to so many
            tokens with padding.

    Raises:
        ValueError: if the dtype is another one.
    """

    def __init__(
        self,
        load_model: LoadModel,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        tokens_per_forward: int = TOKENS_PER_FORWARD,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype of the reference model is {dtype!r}: one of {list(DTYPES)}")
        self.load_model = load_model
        self.device = torch.device(device)
        self.autocast_dtype = DTYPES[dtype]
        self.tokens_per_forward = tokens_per_forward
        self.model: ReferenceModel | None = None

    def __call__(self, batch: TokenBatch) -> np.ndarray:
        """Mean losses in nats, float64 [B]; 0 for samples of fewer than two tokens.

        Raises:
            ValueError: if a sample does not fit the model.
        """
        if self.model is None:
            self.model = self.load_model(self.device)
        _check_fit(self.model, batch)
        losses = np.zeros(len(batch.lengths))
        for places in groups_by_length(batch.lengths, self.tokens_per_forward):
            lengths = batch.lengths[places]
            if lengths[-1] > 1:
                rows = padded_rows(batch, places).astype(np.int64)
                losses[places] = self._mean_losses(self.model, rows, lengths)
        return losses

    def _mean_losses(
        self, model: ReferenceModel, rows: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        """Mean losses of some rows of tokens, padded behind, which causal models do not see."""
        tokens = torch.from_numpy(rows).to(self.device)
        labels = tokens[:, 1:]
        with (
            torch.inference_mode(),
            torch.autocast(
                self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
            ),
        ):
            logits = model.logits(tokens[:, :-1])
        num_rows = max(1, LOGITS_PER_PART // (logits.shape[1] * logits.shape[2]))
        parts = zip(logits.split(num_rows), labels.split(num_rows), strict=True)
        token_losses = torch.cat(
            [
                functional.cross_entropy(part.float().transpose(1, 2), targets, reduction="none")
                for part, targets in parts
            ]
        )
        is_token = np.arange(1, rows.shape[1]) < lengths[:, None]
        sums = np.where(is_token, token_losses.double().cpu().numpy(), 0.0).sum(axis=1)
        means: np.ndarray = sums / np.maximum(lengths - 1, 1)
        return means


def _check_fit(model: ReferenceModel, batch: TokenBatch) -> None:
    """Raise ValueError for samples that are too long or tokens outside the model's vocabulary."""
    longest = int(batch.lengths.max(initial=0)) - 1
    if model.max_length is not None and longest > model.max_length:
        raise ValueError(
            f"the reference model reads {model.max_length} tokens, a sample needs {longest}; "
            "analyze shorter samples or take another model"
        )
    largest = int(batch.tokens.max(initial=0))
    if largest >= model.vocab_size:
        raise ValueError(
            f"token {largest} is outside the reference model's vocabulary of {model.vocab_size} "
            "entries; it was made with another tokenizer than the corpus"
        )
