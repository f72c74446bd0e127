"""GPT: the language model with its output layer and loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from data_efficiency import IGNORED_LABEL
from data_efficiency.routing.bags import label_shares
from megatron.config import ModelConfig
from megatron.model.attention_window import make_window
from megatron.model.language_model import (
    LanguageModel,
    check_documents,
    check_ids,
    initialize_weights,
)
from megatron.model.output_loss import bag_correction, linear_cross_entropy_sum, output_logits
from megatron.setting_rules import require


class GPTModel(nn.Module):
    """A decoder-only language model.

    Args:
        backpropagated_share: in training, learn from this share of a batch's rows alone, those of the highest loss;
            None: from all.

    Sequence lengths come from the shapes of what it is given, up to the configured maximum.
    """

    def __init__(self, config: ModelConfig, *, backpropagated_share: float | None = None) -> None:
        super().__init__()
        position, num_types = config.normalization_position, config.num_token_types
        require(position == "before", "normalization_position", position, "GPT has before only")
        require(num_types == 0, "num_token_types", num_types, "GPT has none: must be 0")
        self.config, self.backpropagated_share = config, backpropagated_share
        self.compiles_loss = False
        """Whether the loss is compiled where that is faster; `compile_model` says so."""
        self.language_model = LanguageModel(config)
        if config.untie_embeddings_and_output_weights:
            self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        initialize_weights(self, config)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers in order."""
        return self.language_model.layers

    @property
    def output_weight(self) -> torch.Tensor:
        """[padded vocabulary, hidden]: the output layer's weight, or the embedding's."""
        if self.config.untie_embeddings_and_output_weights:
            return self.output_layer.weight
        return self.language_model.word_embeddings.weight

    def forward(  # noqa: PLR0913 - what a batch may have beside its tokens
        self,
        tokens: torch.Tensor,
        *,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        label_weights: torch.Tensor | None = None,
        attention_window: int | None = None,
        sliding_window: int | None = None,
        document_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        by_row: bool = False,
    ) -> Any:
        """Logits [batch, sequence, padded vocabulary]; with labels, the sum of the token losses.

        Args:
            tokens: int64 [batch, sequence], or bags of tokens, [batch, sequence, bag].
            labels: int64 [batch, sequence], the id that follows each token; -100 takes a token out
                of the loss. Bags of labels, [batch, sequence, bag]: a position's loss is their weighted mean.
            attention_mask: bool [batch or 1, heads or 1, sequence, sequence], True where a query
                may look at a key; it replaces the causal rule. None: causal attention.
            label_weights: [bag], of bags of labels; None: all alike.
            attention_window: positions of the blocks, side by side, that causal attention does not look out of;
                None, or not below the sequence's length: no limit.
            sliding_window: or, positions that each token looks at, its own and those before it.
            document_ids: int64 [batch, sequence], rising along a row: causal attention stays inside what has one
                number. None: inside the row.
            position_ids: int64 [batch, sequence], each below the sequence's length, such as places in a document;
                None: places in the row.
            by_row: tell the mean loss of each row as well.

        Returns:
            With labels a float32 scalar: the sum, not the mean, over all positions with a label; `by_row` this and the
            rows' means, [batch], without a gradient.

        Raises:
            ValueError: if the sequence is too long, labels have another shape than tokens, an
                id lies outside the vocabulary, a window is below 1 or beside a mask, or documents do not fit.
        """
        if labels is not None:
            self._check_labels(labels, tokens)
        window = make_window(attention_window, sliding_window, tokens.shape[-1])
        if window is not None and attention_mask is not None:
            raise ValueError(
                "a window limits causal attention, and a mask replaces it: give one of them"
            )
        check_documents(tokens, attention_mask, document_ids, position_ids)
        hidden_states = self.language_model(
            tokens,
            attention_mask=attention_mask,
            window=window,
            document_ids=document_ids,
            position_ids=position_ids,
        )
        if labels is None:
            return output_logits(hidden_states, self.output_weight)
        return self._loss(hidden_states, labels, label_weights, by_row=by_row)

    def _check_labels(self, labels: torch.Tensor, tokens: torch.Tensor) -> None:
        """Raise ValueError unless there is an id of the vocabulary, or a bag of them, for each token."""
        if labels.shape[:2] != tokens.shape[:2] or labels.dim() not in (2, 3):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, tokens {tuple(tokens.shape)}: must be equal"
            )
        check_ids(labels, self.config.vocab_size, "label")

    def _loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor,
        label_weights: torch.Tensor | None,
        *,
        by_row: bool,
    ) -> Any:
        """The sum of the token losses, `by_row` with the rows' means; see `forward`.

        Args:
            hidden_states: [batch, sequence, hidden].
        """
        loss_sum = linear_cross_entropy_sum
        if torch.compiler.is_compiling():
            # Its loop over chunks would be compiled anew for each number of tokens.
            loss_sum = torch.compiler.disable(loss_sum)
        loss_sum = partial(loss_sum, compiled=self.compiles_loss)
        share = self.backpropagated_share if self.training else None
        if by_row or share is not None:
            loss, rows = _loss_by_row(loss_sum, hidden_states, self.output_weight, labels, share)
            return (loss, rows) if by_row else loss
        if labels.dim() == 2:
            return loss_sum(hidden_states, self.output_weight, labels)
        shares = label_shares(labels, label_weights)
        first = labels.gather(2, shares.argmax(2, keepdim=True)).squeeze(2)
        loss = loss_sum(hidden_states, self.output_weight, first)
        return loss + bag_correction(hidden_states, self.output_weight, labels, first, shares)


def _loss_by_row(
    loss_sum: Callable[..., torch.Tensor],
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    share: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss, and each row's mean, [batch], without a gradient.

    Args:
        share: of the rows that count, those of the highest loss, so much more that the sum is as that of all; None: all.

    Raises:
        ValueError: for bags of labels, which have no loss a token.
    """
    if labels.dim() != 2:
        raise ValueError(
            "rows of bags have no losses of their own: train without token superposition"
        )
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    token_losses = torch.empty(labels.shape, dtype=dtype, device=labels.device)
    with torch.set_grad_enabled(share is None and torch.is_grad_enabled()):
        loss = loss_sum(hidden_states, weight, labels, token_losses=token_losses)
    counted = (labels != IGNORED_LABEL).sum(1)
    rows = token_losses.sum(1) / counted.clamp(min=1)
    if share is None:
        return loss, rows
    kept = max(1, round(share * len(rows)))
    others = torch.ones_like(counted, dtype=torch.bool)
    others[rows.topk(kept).indices] = False
    of_kept = labels.masked_fill(others[:, None], IGNORED_LABEL)
    scale = counted.sum() / counted[~others].sum().clamp(min=1)
    return loss_sum(hidden_states, weight, of_kept) * scale, rows
