"""The output layer and its cross entropy in one, without the logits of all tokens in memory.

Gradients are formed chunk by chunk in the forward pass, where the chunk's probabilities are at hand,
so nothing is computed twice and the backward pass only scales them.
`torch.nn.functional.linear_cross_entropy` saves the same memory, but on a CPU it takes twice as long at large
vocabularies, and under bf16 autocast it computes in float32.
"""

from typing import Any

import torch
from torch.nn import functional

IGNORED_LABEL = -100
_CHUNK_LOGITS = 2**23
"""Logits in memory at once, where that leaves each chunk enough tokens for fast matrix products. Small
chunks lose time where the threads of an operator wait for each other on a busy machine."""
_MIN_CHUNK_TOKENS = 256


def linear_cross_entropy_sum(
    hidden_states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The summed cross entropy of `hidden_states @ weight.T`, over all labels that are not -100.

    Args:
        hidden_states: [..., hidden], any floating dtype.
        weight: [vocabulary, hidden].
        labels: int64 [...].

    Returns:
        A scalar, float32 (float64 for float64 input). Under autocast the matrix products run in
        autocast's dtype; the softmax and all sums over tokens are float32.
    """
    hidden_states = hidden_states.flatten(0, -2)
    labels = labels.flatten()
    device = hidden_states.device.type
    dtype = hidden_states.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    if torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad):
        total: torch.Tensor = _LinearCrossEntropySum.apply(hidden_states, weight, labels, dtype)
        return total
    with torch.autocast(device, enabled=False):
        size = _chunk_tokens(weight)
        chunks = zip(hidden_states.to(dtype).split(size), labels.split(size), strict=True)
        cast_weight = weight.to(dtype)
        losses = [
            functional.cross_entropy(
                functional.linear(chunk, cast_weight).to(_sum_dtype(dtype)),
                chunk_labels,
                ignore_index=IGNORED_LABEL,
                reduction="sum",
            )
            for chunk, chunk_labels in chunks
        ]
        return torch.stack(losses).sum()


def _chunk_tokens(weight: torch.Tensor) -> int:
    return max(_MIN_CHUNK_TOKENS, _CHUNK_LOGITS // weight.shape[0])


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _LinearCrossEntropySum(torch.autograd.Function):
    """Loss in `forward`, together with the gradients that `backward` scales."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        sum_dtype = _sum_dtype(dtype)
        total = hidden_states.new_zeros((), dtype=sum_dtype)
        hidden_gradient = torch.empty_like(hidden_states)
        weight_gradient = torch.zeros_like(weight, dtype=sum_dtype)
        with torch.autocast(hidden_states.device.type, enabled=False):
            cast_weight = weight.to(dtype)
            for start in range(0, len(labels), _chunk_tokens(weight)):
                rows = slice(start, start + _chunk_tokens(weight))
                inputs = hidden_states[rows].to(dtype)
                counted = (labels[rows] != IGNORED_LABEL).unsqueeze(1)
                logits = functional.linear(inputs, cast_weight)
                loss, gradient = _loss_and_gradient(logits, labels[rows], counted)
                total += loss
                hidden_gradient[rows] = (gradient @ cast_weight) * counted
                inputs = inputs * counted
                if dtype == sum_dtype:
                    weight_gradient.addmm_(gradient.t(), inputs)
                else:
                    weight_gradient += gradient.t() @ inputs
        ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype))
        return total

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        (scale,) = gradients
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return (
            hidden_gradient * scale.to(hidden_gradient.dtype),
            weight_gradient * scale.to(weight_gradient.dtype),
            None,
            None,
        )


def _loss_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A chunk's summed loss over the counted tokens, and each token's gradient as if it counted.

    The caller takes the gradient of the others out after the matrix products, where rows are short.

    Args:
        logits: [tokens, vocabulary].
        labels: int64 [tokens].
        counted: bool [tokens, 1].

    Returns:
        A scalar, and a tensor of the logits' shape and dtype.
    """
    targets = labels.unsqueeze(1).masked_fill(~counted, 0)
    log_probabilities = torch.log_softmax(logits, dim=-1, dtype=_sum_dtype(logits.dtype))
    loss = -log_probabilities.gather(1, targets).masked_fill(~counted, 0).sum()
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(1, targets, gradient.new_full((), -1).expand(targets.shape))
    return loss, gradient.to(logits.dtype)
