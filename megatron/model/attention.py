"""Multi-head self-attention with optional rotary positions and grouped keys and values."""

import torch
from torch import nn

from megatron.config import ModelConfig
from megatron.model.attention_window import Window, attend_in_window
from megatron.model.document_attention import attend_in_documents
from megatron.model.optional_kernels import Attention, attend_automatically
from megatron.model.rotary import apply_rotary


class SelfAttention(nn.Module):
    """Self-attention; one matrix product makes queries, keys and values.

    Args:
        causal: whether, without a mask, each token looks only at itself and the tokens before it.
    """

    def __init__(self, config: ModelConfig, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.attend: Attention = attend_automatically
        """What computes it; `choose_attention` puts another one there."""
        self.num_query_heads = config.num_attention_heads
        self.num_key_value_heads = config.kv_heads
        self.head_size = config.head_size
        self.dropout = config.attention_dropout
        bias = not config.disable_bias_linear
        num_heads = self.num_query_heads + 2 * self.num_key_value_heads
        self.query_key_value = nn.Linear(config.hidden_size, num_heads * self.head_size, bias=bias)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None = None,
        rotary_cos: torch.Tensor | None = None,
        rotary_sin: torch.Tensor | None = None,
        window: Window | None = None,
        window_positions: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The attention's result, [batch, sequence, hidden].

        Args:
            hidden_states: [batch, sequence, hidden].
            attention_mask: bool [batch or 1, heads or 1, sequence or 1, sequence], True where a query
                (third axis) may look at a key (fourth axis); it replaces the causal rule. None:
                the causal rule, or all tokens where there is none.
            rotary_cos: [batch or 1, sequence, head_size], or None without rotary positions.
            window: how far causal attention looks; None: as far as it can. It goes with no mask.
            window_positions: int64 [batch or 1, sequence], the tokens' places in the whole row.
            document_ids: int64 [batch, sequence], rising along a row: causal attention stays inside what has one
                number; None: inside the row. It goes with no mask.
        """
        heads = self.heads(hidden_states, rotary_cos, rotary_sin)
        dropout = self.dropout if self.training else 0.0
        if document_ids is not None:
            in_documents = attend_in_documents
            if torch.compiler.is_compiling():
                # Its shapes follow from where documents end, which no compiled code can know.
                in_documents = torch.compiler.disable(in_documents)
            context = in_documents(
                self.attend,
                *heads,
                document_ids=document_ids,
                window=window,
                positions=window_positions,
                dropout=dropout,
            )
        elif window is None:
            context = self.attend(
                *heads,
                attention_mask=attention_mask,
                dropout=dropout,
                is_causal=self.causal and attention_mask is None,
            )
        else:
            context = attend_in_window(
                self.attend, *heads, window=window, positions=window_positions, dropout=dropout
            )
        output: torch.Tensor = self.dense(context.transpose(1, 2).flatten(2))
        return output

    def heads(
        self,
        hidden_states: torch.Tensor,
        rotary_cos: torch.Tensor | None = None,
        rotary_sin: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, [batch, heads, sequence, head_size] each."""
        num_queries, num_keys = self.num_query_heads, self.num_key_value_heads
        heads = self.query_key_value(hidden_states)
        # Of all tokens, also where processes share each row and hidden states are those of a part.
        heads = heads.unflatten(2, (-1, self.head_size))
        if rotary_cos is not None and rotary_sin is not None:
            rotated, value = heads.split((num_queries + num_keys, num_keys), dim=2)
            rotated = apply_rotary(rotated, rotary_cos, rotary_sin)
            query, key = rotated.split((num_queries, num_keys), dim=2)
        else:
            query, key, value = heads.split((num_queries, num_keys, num_keys), dim=2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
