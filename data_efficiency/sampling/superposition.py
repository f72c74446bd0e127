"""Batches of bags: what token superposition makes of the samples of a micro-batch."""

from typing import Any

import torch

from data_efficiency.accounting import IGNORED_LABEL
from data_efficiency.config import SuperpositionConfig
from data_efficiency.json_section import ConfigError
from data_efficiency.token_names import TOKEN_NAMES, arrays_of

LABEL_WEIGHTS = "label_weights"
"""Entry of a batch: float32 [bag_size], how much each label of a position counts."""


def superposed(batch: Any, settings: SuperpositionConfig, step: int) -> Any:
    """The batch with bags in the place of tokens, of labels, or of both.

    Tokens and labels [rows x samples_per_row, length] become [rows, length, bag_size] each, where bags are asked for;
    else they stay [rows, length]. The label bag of a position are the tokens that follow its last token; where
    the row ends before, -100. In plain steps only labels that stand at their own tokens change: they become the next
    tokens, so that one loss serves all steps.

    Args:
        batch: a dict of tensors or arrays with one entry of tokens and `labels`.
        step: steps finished, from 0.

    Raises:
        ConfigError: for a batch with anything else that may go with positions.
    """
    if not settings.is_on(step):
        if settings.labels_are_next:
            return batch
        _token_entry(batch)
        return {**batch, "labels": _shifted(torch.as_tensor(batch["labels"]), 1)}
    name = _token_entry(batch)
    size, num_samples = settings.bag_size, settings.samples_per_row(step)
    tokens, labels = (_joined(batch[entry], num_samples) for entry in (name, "labels"))
    if not settings.labels_are_next:
        labels = _shifted(labels, 1)
    if settings.bags == "output":
        targets = torch.stack([_shifted(labels, place) for place in range(size)], -1)
    else:
        tokens = tokens.unflatten(1, (-1, size))
        after_bag = _shifted(labels, size - 1)
        targets = after_bag.unflatten(1, (-1, size))
        if settings.bags == "input":
            targets = targets[..., 0]
    made = {**batch, name: tokens.contiguous(), "labels": targets.contiguous()}
    if settings.bags != "input":
        made[LABEL_WEIGHTS] = torch.tensor(settings.weights, dtype=torch.float32)
    return made


def _token_entry(batch: Any) -> str:
    """The name of the tokens.

    Raises:
        ConfigError: unless the batch is a dict with tokens and labels [samples, length] and nothing else.
    """
    if not isinstance(batch, dict):
        raise ConfigError(
            f"token_superposition is enabled, but batches are of {type(batch).__name__}: needs a dict with tokens and "
            "labels"
        )
    arrays = arrays_of(batch)
    named = [name for name in TOKEN_NAMES if name in arrays]
    others = sorted(set(arrays) - {*named, "labels"})
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    fits = len(named) == 1 and "labels" in arrays and not others
    if not fits or shapes[named[0]] != shapes["labels"] or len(shapes["labels"]) != 2:
        raise ConfigError(
            f"token_superposition is enabled, but batches have {shapes}: needs tokens ({', '.join(TOKEN_NAMES[:2])}) and "
            "labels, each [samples, length], and nothing beside them (masks, positions), which bags would make wrong"
        )
    return named[0]


def _joined(array: Any, num_samples: int) -> torch.Tensor:
    """Rows of so many samples, one after the other: [rows, samples x length]."""
    tensor = torch.as_tensor(array)
    return tensor.reshape(tensor.shape[0] // num_samples, -1)


def _shifted(labels: torch.Tensor, places: int) -> torch.Tensor:
    """The labels so many places further left; -100 where none is left."""
    if places == 0:
        return labels
    left = torch.full_like(labels, IGNORED_LABEL)
    left[:, :-places] = labels[:, places:]
    return left
