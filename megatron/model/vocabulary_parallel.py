"""The output layer of a vocabulary that processes share: each computes the logits of its own words.

What crosses between processes are three numbers a token (the largest logit, the sum of exponentials, the label's logit) and,
once, the gradient of the hidden states. Source: Megatron-LM (Shoeybi et al., arXiv 1909.08053), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn import functional

from data_efficiency import IGNORED_LABEL


def shared_logits(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """[..., vocabulary]: all words' logits, on every process; arguments as below."""
    assert isinstance(weight, DTensor)
    mesh = weight.device_mesh
    spread = DTensor.from_local(hidden_states, mesh, (Replicate(),), run_check=False)
    # Each process's words give a part of the hidden states' gradient.
    alike = spread.to_local(grad_placements=(Partial(),))
    own_bias = bias.to_local() if isinstance(bias, DTensor) else None
    own = functional.linear(alike, weight.to_local(), own_bias)
    logits = DTensor.from_local(own, mesh, (Shard(own.dim() - 1),), run_check=False)
    return logits.redistribute(placements=(Replicate(),)).to_local()


def shared_cross_entropy_sum(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    num_rows: int,
    token_losses: torch.Tensor | None = None,
) -> torch.Tensor:
    """The summed cross entropy over all labels but -100, as `linear_cross_entropy_sum`; the same on every process.

    Args:
        hidden_states: [tokens, hidden], the same on every process, as its gradient will be.
        weight: [vocabulary, hidden], its rows cut in order over a mesh of one axis.
        labels: int64 [tokens].
        bias: [vocabulary], cut alike; None for none.
        dtype: of matrix products.
        num_rows: tokens whose logits are in memory at once.
        token_losses: [tokens], where each label's own goes, 0 for -100; None: nowhere.
    """
    assert isinstance(weight, DTensor)
    group = weight.device_mesh.get_group()
    own_bias = bias.to_local() if isinstance(bias, DTensor) else None
    own = weight.to_local()
    first = torch.distributed.get_rank(group) * len(own)
    way = _Way(dtype=dtype, num_rows=num_rows, first_word=first, group=group)
    total: torch.Tensor = _SharedCrossEntropySum.apply(
        hidden_states, own, labels, own_bias, way, token_losses
    )
    return total


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How the sum is computed."""

    dtype: torch.dtype
    num_rows: int
    first_word: int
    """Number in the vocabulary of the first own word."""
    group: Any


class _SharedCrossEntropySum(torch.autograd.Function):
    """Loss in `forward`, together with the gradients that `backward` scales, where any are wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        bias: torch.Tensor | None,
        way: _Way,
        token_losses: torch.Tensor | None,
    ) -> torch.Tensor:
        dtype, num_rows = way.dtype, way.num_rows
        wide = torch.promote_types(dtype, torch.float32)
        total = hidden_states.new_zeros((), dtype=wide)
        hidden_gradient = torch.zeros_like(hidden_states, dtype=wide)
        weight_gradient = torch.zeros_like(weight, dtype=wide)
        bias_gradient = None if bias is None else torch.zeros_like(bias, dtype=wide)
        is_trained = any(ctx.needs_input_grad)
        with torch.autocast(hidden_states.device.type, enabled=False):
            cast_weight = weight.to(dtype)
            for start in range(0, len(labels), num_rows):
                rows = slice(start, start + num_rows)
                inputs = hidden_states[rows].to(dtype)
                logits = functional.linear(
                    inputs, cast_weight, None if bias is None else bias.to(dtype)
                ).to(wide)
                counted = labels[rows] != IGNORED_LABEL
                own_labels = labels[rows] - way.first_word
                losses, gradient = _losses_and_gradient(logits, own_labels, way.group)
                losses = losses.masked_fill(~counted, 0)
                total += losses.sum()
                if token_losses is not None:
                    token_losses[rows] = losses
                if not is_trained:
                    continue
                gradient *= counted.unsqueeze(1)
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(0)
                narrow = gradient.to(dtype)
                hidden_gradient[rows] = (narrow @ cast_weight).to(wide)
                weight_gradient += (narrow.t() @ inputs).to(wide)
            if is_trained:
                torch.distributed.all_reduce(hidden_gradient, group=way.group)
        ctx.save_for_backward(
            hidden_gradient.to(hidden_states.dtype), weight_gradient.to(weight.dtype), bias_gradient
        )
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [
            None if saved is None else saved * gradients[0].to(saved.dtype)
            for saved in ctx.saved_tensors
        ]
        hidden_gradient, weight_gradient, bias_gradient = scaled
        return hidden_gradient, weight_gradient, None, bias_gradient, None, None


def _losses_and_gradient(
    logits: torch.Tensor, own_labels: torch.Tensor, group: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's loss, [tokens], and its gradient by the own logits, as if all tokens counted.

    Args:
        logits: [tokens, own words]; overwritten.
        own_labels: int64 [tokens], counted from the first own word; outside of them the label is another process's.
    """
    reduce: Callable[..., Any] = torch.distributed.all_reduce
    largest = logits.amax(1)
    reduce(largest, torch.distributed.ReduceOp.MAX, group=group)
    is_own = (own_labels >= 0) & (own_labels < logits.shape[1])
    targets = own_labels.masked_fill(~is_own, 0).unsqueeze(1)
    logits -= largest.unsqueeze(1)
    of_labels = logits.gather(1, targets).squeeze(1) * is_own
    gradient = logits.exp_()
    sums = torch.stack((gradient.sum(1), of_labels))
    reduce(sums, group=group)
    gradient /= sums[0].unsqueeze(1)
    gradient.scatter_add_(1, targets, -is_own.to(gradient.dtype).unsqueeze(1))
    return sums[0].log() - sums[1], gradient
