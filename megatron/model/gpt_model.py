"""GPT: the language model with its output layer and loss."""

import torch
from torch import nn

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

    Sequence lengths come from the shapes of what it is given, up to the configured maximum.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        position, num_types = config.normalization_position, config.num_token_types
        require(position == "before", "normalization_position", position, "GPT has before only")
        require(num_types == 0, "num_token_types", num_types, "GPT has none: must be 0")
        self.config = config
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

    def forward(
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
    ) -> torch.Tensor:
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

        Returns:
            With labels a float32 scalar: the sum, not the mean, over all positions with a label.

        Raises:
            ValueError: if the sequence is too long, labels have another shape than tokens, an
                id lies outside the vocabulary, a window is below 1 or beside a mask, or documents do not fit.
        """
        if labels is not None:
            if labels.shape[:2] != tokens.shape[:2] or labels.dim() not in (2, 3):
                raise ValueError(
                    f"labels have shape {tuple(labels.shape)}, tokens {tuple(tokens.shape)}: "
                    "must be equal"
                )
            check_ids(labels, self.config.vocab_size, "label")
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
        loss_sum = linear_cross_entropy_sum
        if torch.compiler.is_compiling():
            # Its loop over chunks would be compiled anew for each number of tokens.
            loss_sum = torch.compiler.disable(loss_sum)
        if labels.dim() == 2:
            return loss_sum(hidden_states, self.output_weight, labels, compiled=self.compiles_loss)
        shares = label_shares(labels, label_weights)
        first = labels.gather(2, shares.argmax(2, keepdim=True)).squeeze(2)
        loss = loss_sum(hidden_states, self.output_weight, first, compiled=self.compiles_loss)
        return loss + bag_correction(hidden_states, self.output_weight, labels, first, shares)
