"""The output layer and its cross entropy in one, without the logits of all tokens in memory.

Gradients are formed chunk by chunk in the forward pass, where the chunk's probabilities are at hand,
so nothing is computed twice and the backward pass only scales them.
`torch.nn.functional.linear_cross_entropy` saves the same memory, but on a CPU it takes twice as long at large
vocabularies, and under bf16 autocast it computes in float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from data_efficiency import IGNORED_LABEL

_CHUNK_BYTES = 2**26
"""Of logits in memory at once, where that leaves each chunk enough tokens for fast matrix products. Small
chunks lose time where the threads of an operator wait for each other on a busy machine, and each one's
pass over the weight's gradient costs as much as a tenth of its matrix products."""
ACCELERATOR_CHUNK_LOGITS = 2**28
"""On a GPU, where each chunk's pass over the weight's gradient costs as much as its matrix products. Its
tokens are a power of two: whole tiles of matrix products, and few chunks that are shorter than others."""
_MIN_CHUNK_TOKENS = 256
_BLOCK_NUMBERS = 2**20
"""What a CPU takes through several passes at once, so that it stays in the caches between them."""


def linear_cross_entropy_sum(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    compiled: bool = False,
    token_losses: torch.Tensor | None = None,
) -> torch.Tensor:
    """The summed cross entropy of `hidden_states @ weight.T + bias`, over all labels but -100.

    Args:
        hidden_states: [..., hidden], any floating dtype.
        weight: [vocabulary, hidden].
        labels: int64 [...].
        bias: [vocabulary], None for none.
        compiled: in training, compile what lies between a chunk's matrix products. On a CPU, where this
            gains nothing, it changes nothing.
        token_losses: [...], of the sums' dtype, where each label's own goes, 0 for -100; no gradient flows through them.

    Returns:
        A scalar, float32 (float64 for float64 input). Under autocast the matrix products run in
        autocast's dtype; the softmax and all sums over tokens are float32.
    """
    hidden_states = hidden_states.flatten(0, -2)
    labels = labels.flatten()
    told = None if token_losses is None else token_losses.view(-1)
    device = hidden_states.device.type
    dtype = hidden_states.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    if _is_shared(weight):
        from megatron.model.vocabulary_parallel import shared_cross_entropy_sum  # noqa: PLC0415

        num_rows = max(1, min(_chunk_tokens(weight, dtype), len(labels)))
        return shared_cross_entropy_sum(
            *(hidden_states, weight, labels, bias, dtype, num_rows), told
        )
    if torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad):
        total: torch.Tensor = _LinearCrossEntropySum.apply(
            *(hidden_states, weight, labels, bias, dtype, compiled and device != "cpu"),
            told,
        )
        return total
    return _sum_without_gradient(hidden_states, weight, labels, bias, dtype, told)


def _sum_without_gradient(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    told: torch.Tensor | None,
) -> torch.Tensor:
    """`linear_cross_entropy_sum` chunk by chunk, by plain operators.

    Args:
        hidden_states: [tokens, hidden].
        labels: int64 [tokens].
        dtype: of the matrix products.
        told: [tokens], where each label's own loss goes.
    """
    with torch.autocast(hidden_states.device.type, enabled=False):
        size = _chunk_tokens(weight, dtype)
        chunks = zip(hidden_states.to(dtype).split(size), labels.split(size), strict=True)
        cast_weight = weight.to(dtype)
        cast_bias = None if bias is None else bias.to(dtype)
        losses = [
            functional.cross_entropy(
                functional.linear(chunk, cast_weight, cast_bias).to(_sum_dtype(dtype)),
                chunk_labels,
                ignore_index=IGNORED_LABEL,
                reduction="sum" if told is None else "none",
            )
            for chunk, chunk_labels in chunks
        ]
        if told is None:
            return torch.stack(losses).sum()
        return told.copy_(torch.cat(losses)).sum()


def output_logits(
    hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`hidden_states @ weight.T + bias`, of all words also where processes share them; arguments as above."""
    if not _is_shared(weight):
        return functional.linear(hidden_states, weight, bias)
    from megatron.model.vocabulary_parallel import shared_logits  # noqa: PLC0415

    return shared_logits(hidden_states, weight, bias)


def _is_shared(weight: torch.Tensor) -> bool:
    """Whether processes share the vocabulary (a DTensor, whose import takes long and is left to who makes one)."""
    return hasattr(weight, "device_mesh")


def bag_correction(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    first: torch.Tensor,
    shares: torch.Tensor,
) -> torch.Tensor:
    """What the loss of bags of labels has more than that of one label of each.

    The cross entropies of one position share their normalization, so that their mean differs from the first one
    by logits alone: those of the bag's labels, which no product with the whole weight is needed for.

    Args:
        hidden_states: [..., hidden].
        weight: [vocabulary, hidden].
        labels: int64 [..., bag], -100 for none.
        first: int64 [...], a label of each bag, -100 where there is none.
        shares: [..., bag], what each label counts; together 1 or, without a label, 0.
    """
    dtype = _sum_dtype(hidden_states.dtype)
    size = labels.shape[-1]
    # In the order of labels: [positions, bag], looked up and summed in one.
    mean = functional.embedding_bag(
        labels.clamp(min=0).view(-1, size),
        weight,
        per_sample_weights=shares.view(-1, size).to(weight.dtype),
        mode="sum",
    )
    counted = (first != IGNORED_LABEL).view(-1, 1)
    one = functional.embedding(first.clamp(min=0).view(-1), weight) * counted
    return (hidden_states.flatten(0, -2).to(dtype) * (one - mean).to(dtype)).sum()


def _chunk_tokens(weight: torch.Tensor, dtype: torch.dtype) -> int:
    if weight.device.type == "cpu":
        return max(_MIN_CHUNK_TOKENS, _CHUNK_BYTES // (weight.shape[0] * dtype.itemsize))
    num_tokens = max(_MIN_CHUNK_TOKENS, ACCELERATOR_CHUNK_LOGITS // weight.shape[0])
    return 1 << num_tokens.bit_length() - 1


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
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        compiled: bool,
        token_losses: torch.Tensor | None,
    ) -> torch.Tensor:
        sum_dtype = _sum_dtype(dtype)
        total = hidden_states.new_zeros((), dtype=sum_dtype)
        hidden_gradient = torch.empty_like(hidden_states)
        weight_gradient: torch.Tensor | None = None
        bias_gradient = None if bias is None else torch.zeros_like(bias, dtype=sum_dtype)
        num_rows = max(1, min(_chunk_tokens(weight, dtype), len(labels)))
        with torch.autocast(hidden_states.device.type, enabled=False):
            cast_weight = weight.to(dtype)
            # Memory as large as these is fresh from the system at each allocation: made once, it is
            # paid for once.
            logits = hidden_states.new_empty((num_rows, weight.shape[0]), dtype=dtype)
            kernel = _compiled_loss_and_gradient() if compiled else _in_memory_of(logits, sum_dtype)
            for start in range(0, len(labels), num_rows):
                rows = slice(start, start + num_rows)
                inputs = hidden_states[rows].to(dtype)
                counted = (labels[rows] != IGNORED_LABEL).unsqueeze(1)
                chunk = torch.mm(inputs, cast_weight.t(), out=logits[: len(inputs)])
                if bias is not None:
                    chunk += bias.to(dtype)
                losses, gradient = kernel(chunk, labels[rows], counted)
                total += losses.sum()
                if token_losses is not None:
                    token_losses[rows] = losses.squeeze(1)
                if bias_gradient is not None:
                    bias_gradient += gradient.t() @ counted.squeeze(1).to(dtype)
                hidden_gradient[rows] = (gradient @ cast_weight) * counted
                inputs = inputs * counted
                if weight_gradient is None:
                    weight_gradient = (gradient.t() @ inputs).to(sum_dtype)
                elif dtype == sum_dtype:
                    weight_gradient.addmm_(gradient.t(), inputs)
                else:
                    _add_widened(weight_gradient, gradient.t() @ inputs)
        if weight_gradient is None:
            weight_gradient = torch.zeros_like(weight)
        ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype), bias_gradient)
        return total

    @staticmethod
    def backward(
        ctx: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None, torch.Tensor | None, None, None, None]:
        (scale,) = gradients
        hidden_gradient, weight_gradient, bias_gradient = ctx.saved_tensors
        return (
            hidden_gradient * scale.to(hidden_gradient.dtype),
            weight_gradient * scale.to(weight_gradient.dtype),
            None,
            None if bias_gradient is None else bias_gradient * scale.to(bias_gradient.dtype),
            None,
            None,
            None,
        )


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(logits, labels, counted) -> the losses of a chunk's tokens, [tokens, 1], and gradient, as `_fusible_loss_and_gradient` makes them."""


def _block_rows(numbers: torch.Tensor) -> int:
    """How many rows of a matrix take several passes together: all of them on an accelerator."""
    if numbers.device.type != "cpu":
        return len(numbers)
    return max(1, _BLOCK_NUMBERS // numbers.shape[1])


def _add_widened(sums: torch.Tensor, terms: torch.Tensor) -> None:
    """Add narrower terms to a matrix of sums; a CPU makes a widened copy of what it adds, here a block's."""
    size = _block_rows(sums)
    for block, added in zip(sums.split(size), terms.split(size), strict=True):
        block += added


def _in_memory_of(logits: torch.Tensor, sum_dtype: torch.dtype) -> Kernel:
    """What computes operator by operator, in memory that is taken once for all chunks."""
    size = min(len(logits), _block_rows(logits))
    probabilities = None
    if logits.dtype != sum_dtype:
        probabilities = torch.empty_like(logits[:size], dtype=sum_dtype)

    def computed(
        chunk: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        targets = labels.unsqueeze(1).masked_fill(~counted, 0)
        token_losses = [
            _losses_and_gradient(block, block_targets, probabilities)
            for block, block_targets in zip(chunk.split(size), targets.split(size), strict=True)
        ]
        return torch.cat(token_losses).masked_fill(~counted, 0), chunk

    return computed


@functools.cache
def _compiled_loss_and_gradient() -> Kernel:
    """One kernel that reads the logits twice and writes their gradient in their place."""
    compiled = torch.compile(_fusible_loss_and_gradient)

    def computed(
        logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for tensor in (logits, labels, counted):
            # One piece of code for all chunks, whatever tokens are left for the last one.
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return compiled(logits, labels, counted), logits

    return computed


def _fusible_loss_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """The losses of a chunk's tokens; its gradient takes the logits' place. As `_losses_and_gradient`, but for a compiler.

    No tensor of the logits' shape but themselves reaches memory: what is wider, and which logit is the
    label's, are made in registers.
    """
    targets = labels.unsqueeze(1).masked_fill(~counted, 0)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest = wide.amax(1, keepdim=True)
    exponentials = (wide - largest).exp()
    totals = exponentials.sum(1, keepdim=True)
    token_losses = largest + totals.log() - wide.gather(1, targets)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets
    logits.copy_(exponentials / totals - is_target.to(wide.dtype))
    return token_losses.masked_fill(~counted, 0)


def _losses_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, probabilities: torch.Tensor | None
) -> torch.Tensor:
    """The tokens' losses; each token's gradient, as if it counted, takes its logits' place.

    The caller takes the gradient of the others out after the matrix products, where rows are short.

    Args:
        logits: [tokens, vocabulary]; overwritten.
        targets: int64 [tokens, 1].
        probabilities: memory of at least the logits' shape in the dtype of the sums; None where that is
            the logits' own.

    Returns:
        [tokens, 1], in the dtype of the sums.
    """
    wide = logits if probabilities is None else probabilities[: len(logits)].copy_(logits)
    # A maximum without its place takes a fifth of the time of one with it, so it is looked for twice.
    below_largest = wide.amax(1, keepdim=True) - wide.gather(1, targets)
    gradient = torch.softmax(wide, dim=-1, out=wide)
    # The largest probability is 1 / sum(exp(logits - largest)): never too small for its logarithm.
    token_losses = below_largest - gradient.amax(1, keepdim=True).log()
    gradient.scatter_add_(1, targets, gradient.new_full((), -1).expand(targets.shape))
    if probabilities is not None:
        logits.copy_(gradient)
    return token_losses
