"""What a metric does to the length of a batch, by the action its configuration declares."""

from collections.abc import Mapping
from typing import Any

import torch

from data_efficiency.config import MetricConfig
from data_efficiency.json_section import ConfigError


def check_actions(metrics: tuple[MetricConfig, ...]) -> None:
    """Nothing, if each declared action can be carried out.

    Raises:
        ConfigError: names the metric whose action cannot.
    """
    for metric in metrics:
        if metric.sequence_length == "reshape":
            raise ConfigError(
                f"metric {metric.name!r}: reshaping rows is not supported; use "
                '"sequence_length": "truncate", or "user" with a post-process function of your own'
            )


def apply_actions(
    batch: Any, metrics: tuple[MetricConfig, ...], difficulties: Mapping[str, int]
) -> Any:
    """The batch with every declared truncation applied."""
    lengths = [
        difficulties[metric.name] for metric in metrics if metric.sequence_length == "truncate"
    ]
    return truncate(batch, min(lengths)) if lengths else batch


def truncate(batch: Any, length: int) -> Any:
    """The first `length` positions of every row.

    The sequence's size is axis 1 of the first tensor that has one; every axis after the batch axis of
    that size is cut, so masks [batch, 1, sequence, sequence] are cut in both. Tensors that hold labels
    for the next token must be shifted already and as long as the inputs.

    Args:
        batch: a tensor, or any nesting of dicts, lists and tuples of them; axis 0 is the batch.
        length: positions to keep, at least 1; a longer one changes nothing.
    """
    tensors = [leaf for leaf in _leaves(batch) if leaf.ndim >= 2]
    if not tensors or length >= tensors[0].shape[1]:
        return batch
    return _map(batch, lambda leaf: _cut(leaf, tensors[0].shape[1], length))


def _cut(tensor: torch.Tensor, size: int, length: int) -> torch.Tensor:
    for axis in range(1, tensor.ndim):
        if tensor.shape[axis] == size:
            tensor = tensor.narrow(axis, 0, length)
    return tensor.contiguous()


def _leaves(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in _leaves(value)]
    if isinstance(batch, (list, tuple)):
        return [leaf for value in batch for leaf in _leaves(value)]
    return []


def _map(batch: Any, change: Any) -> Any:
    """The same nesting with `change` applied to each tensor."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: _map(value, change) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [_map(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
