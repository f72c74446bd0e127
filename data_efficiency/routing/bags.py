"""Bags of tokens at the two ends of a model: their embeddings' mean goes in, the mean of their losses comes out."""

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from data_efficiency.accounting import IGNORED_LABEL

ModelOrEngine = TypeVar("ModelOrEngine")
_TOKENS = "input_ids"


def accept_bags(model_or_engine: ModelOrEngine) -> ModelOrEngine:
    """The same model or engine, which now takes bags of tokens in training, too.

    For models of Hugging Face: `input_ids` [rows, positions, bag] go in as the mean of each bag's embeddings.
    Two axes are what they always were. The model's own loss knows no bags, and shifts labels that the loader has made
    the next tokens: give it none in training, and take `bag_loss_sum` of its logits.

    Raises:
        TypeError: for a model without `get_input_embeddings`.
    """
    root: Any = model_or_engine
    while isinstance(getattr(root, "module", None), nn.Module):
        root = root.module
    if not hasattr(root, "get_input_embeddings"):
        raise TypeError(
            f"a {type(root).__name__} has no get_input_embeddings: let its embeddings of tokens with three axes be the "
            "mean over the last"
        )
    # Behind the hooks that gather weights held in parts, of which the embeddings are.
    root.register_forward_pre_hook(_bags_to_embeddings, with_kwargs=True)
    return model_or_engine


def _bags_to_embeddings(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    tokens = args[0] if args else kwargs.get(_TOKENS)
    if module.training and kwargs.get("labels") is not None:
        raise ValueError(
            "labels are given to a model that accepts bags, whose own loss knows none and would take the labels behind "
            "the next tokens: give no labels in training, and take bag_loss_sum of its logits"
        )
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 3 or tokens.is_floating_point():
        return None
    others = [name for name, value in kwargs.items() if isinstance(value, torch.Tensor)]
    others = [*(f"argument {i}" for i in range(1, len(args))), *others]
    if set(others) - {_TOKENS}:
        raise ValueError(
            f"bags of tokens are given with {', '.join(sorted(set(others) - {_TOKENS}))}: a model takes them alone; give "
            "no labels, and take bag_loss_sum of its logits"
        )
    embeddings = module.get_input_embeddings()(tokens).mean(2)
    rest = {name: value for name, value in kwargs.items() if name != _TOKENS}
    return (), {**rest, "inputs_embeds": embeddings}


def bag_loss_sum(
    logits: torch.Tensor, labels: torch.Tensor, label_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum over positions of the weighted mean cross entropy of each position's labels, float32 or wider.

    Plain labels give the plain sum; so one loss function serves all steps of a run.

    Args:
        logits: [rows, positions, vocabulary].
        labels: int64 [rows, positions] or [rows, positions, bag]; -100 counts nowhere, and a position without
            labels not at all.
        label_weights: [bag]; None: all alike.

    Raises:
        ValueError: for logits of other rows and positions, as of a model that does not know bags.

    Example:
        >>> logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0]]])
        >>> round(bag_loss_sum(logits, torch.tensor([[[1, 3]]])).item(), 4)
        1.3863
    """
    if logits.dim() != 3 or logits.shape[:2] != labels.shape[:2]:
        raise ValueError(
            f"the logits are {list(logits.shape)} and the labels {list(labels.shape)}: must be of the same rows and "
            "positions; a model of Hugging Face takes bags after accept_bags(model)"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.dim() == 2:
        return functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )
    shares = label_shares(labels, label_weights).to(logits.dtype)
    chosen = logits.gather(-1, labels.clamp(min=0))
    counted = shares.sum(-1)
    return (counted * logits.logsumexp(-1) - (shares * chosen).sum(-1)).sum()


def label_shares(labels: torch.Tensor, label_weights: torch.Tensor | None) -> torch.Tensor:
    """How much each label counts in its position's mean: together 1, or 0 where there is none.

    Args:
        labels: int64 [..., bag].
        label_weights: [bag]; None: all alike.

    Returns:
        [..., bag], in the type of the weights, float32 without.
    """
    weights = torch.ones(labels.shape[-1], device=labels.device)
    weights = weights if label_weights is None else label_weights.to(labels.device)
    there = (labels != IGNORED_LABEL) * weights
    return there / there.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def num_loss_positions(labels: torch.Tensor) -> int:
    """Positions with a label, plain or in a bag, of labels as the loader of superposed rows gives them.

    Args:
        labels: int64 [rows, positions] or [rows, positions, bag].
    """
    there = labels != IGNORED_LABEL
    return int((there.any(-1) if labels.dim() == 3 else there).sum())
