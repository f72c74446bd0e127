"""BERT: the bidirectional encoder with its pooler, masked-LM head and sentence head."""

import torch
from torch import nn
from torch.nn import functional

from data_efficiency import IGNORED_LABEL
from megatron.config import ModelConfig
from megatron.model.gelu import gelu_of_linear
from megatron.model.language_model import LanguageModel, check_ids, initialize_weights
from megatron.model.output_loss import linear_cross_entropy_sum, output_logits
from megatron.model.transformer import make_norm
from megatron.setting_rules import require


class BertModel(nn.Module):
    """An encoder whose tokens look at all real tokens of their row.

    Sequence lengths come from the shapes of what it is given, up to the configured maximum.

    Source: BERT (Devlin et al., 2019), section 3 and appendix A.2; with normalization before
    attention and feed-forward, Megatron-LM (Shoeybi et al., 2020), section 5.3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        untied = config.untie_embeddings_and_output_weights
        require(not untied, "untie_embeddings_and_output_weights", untied, "BERT ties them")
        self.config = config
        self.compiles_loss = False
        """As in `GPTModel`."""
        self.language_model = LanguageModel(config, causal=False)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.masked_lm_head = MaskedLMHead(config)
        self.sentence_head = nn.Linear(config.hidden_size, 2)
        initialize_weights(self, config)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers in order."""
        return self.language_model.layers

    def encode(
        self,
        tokens: torch.Tensor,
        *,
        token_types: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [batch, sequence, hidden].

        Args:
            tokens: int64 [batch, sequence].
            token_types: int64 [batch, sequence], the segment of each token; None for 0 everywhere.
            padding_mask: bool or integers [batch, sequence], nonzero where there is a real token;
                None where all are.

        Raises:
            ValueError: if the sequence is too long, another input has another shape than tokens, or
                an id lies outside the vocabulary.
        """
        _check_shape(tokens, "token_types", token_types)
        _check_shape(tokens, "padding_mask", padding_mask)
        mask = None
        if padding_mask is not None:
            mask = padding_mask.to(torch.bool)[:, None, None, :]
        hidden_states: torch.Tensor = self.language_model(
            tokens, attention_mask=mask, token_types=token_types
        )
        return hidden_states

    def pooled(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """One vector a row, [batch, hidden], from its first token's hidden state."""
        pooled: torch.Tensor = self.pooler(hidden_states[:, 0]).tanh()
        return pooled

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        token_types: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sentence_labels: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the masked tokens and of the sentences; with labels, the sums of their losses.

        Args:
            labels: int64 [batch, sequence], the token that was masked; -100 where none was.
            sentence_labels: int64 [batch], 0 for segments in order, 1 for swapped ones. Given
                together with `labels`.

        Returns:
            Without labels [batch, sequence, padded vocabulary] and [batch, 2]. With labels two
            float32 scalars: sums, not means, over the masked tokens and over the rows.

        Raises:
            ValueError: as `encode`, also if only one kind of labels is given.
        """
        if (labels is None) != (sentence_labels is None):
            raise ValueError("labels and sentence_labels: must be given together")
        if labels is not None:
            _check_shape(tokens, "labels", labels)
            check_ids(labels, self.config.vocab_size, "label")
        hidden_states = self.encode(tokens, token_types=token_types, padding_mask=padding_mask)
        sentence_logits = self.sentence_head(self.pooled(hidden_states))
        weight = self.language_model.word_embeddings.weight
        if labels is None or sentence_labels is None:
            return self.masked_lm_head(hidden_states, weight), sentence_logits
        loss_sum = self.masked_lm_head.loss_sum
        if torch.compiler.is_compiling():
            # Its shapes follow from the number of masked tokens, which no compiled code can know.
            loss_sum = torch.compiler.disable(loss_sum)
        sentence_loss = functional.cross_entropy(
            sentence_logits.float(), sentence_labels, reduction="sum"
        )
        masked_loss = loss_sum(hidden_states, weight, labels, compiled=self.compiles_loss)
        return masked_loss, sentence_loss


class MaskedLMHead(nn.Module):
    """What the token at each place was: a small transformation, then the word embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = config.gelu
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layernorm = make_norm(config)
        self.output_bias = nn.Parameter(torch.zeros(config.padded_vocab_size))

    def forward(self, hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Logits [batch, sequence, padded vocabulary].

        Args:
            hidden_states: [batch, sequence, hidden].
            weight: word embeddings [padded vocabulary, hidden].
        """
        return output_logits(self._transform(hidden_states), weight, self.output_bias)

    def loss_sum(
        self,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        *,
        compiled: bool = False,
    ) -> torch.Tensor:
        """The summed cross entropy, a float32 scalar; work is done for labelled places only.

        Args:
            labels: int64 [batch, sequence]; -100 for places that do not count.
        """
        masked = labels != IGNORED_LABEL
        transformed = self._transform(hidden_states[masked])
        return linear_cross_entropy_sum(
            transformed, weight, labels[masked], self.output_bias, compiled=compiled
        )

    def _transform(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layernorm(gelu_of_linear(self.dense, hidden_states, self.gelu))
        return output


def _check_shape(tokens: torch.Tensor, name: str, other: torch.Tensor | None) -> None:
    if other is not None and other.shape != tokens.shape:
        raise ValueError(
            f"{name} has shape {tuple(other.shape)}, tokens {tuple(tokens.shape)}: must be equal"
        )
