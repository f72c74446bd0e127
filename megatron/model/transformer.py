"""The transformer layer and its parts."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from megatron.config import ModelConfig
from megatron.model.attention import SelfAttention
from megatron.model.attention_window import Window
from megatron.model.gelu import gelu_of_linear


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalization over the hidden axis that the config names."""
    if config.normalization == "rmsnorm":
        return nn.RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)
    return nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)


class FeedForward(nn.Module):
    """Two linear maps with GELU between them, or SwiGLU with its two input maps as one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.swiglu = config.swiglu
        self.gelu = config.gelu
        bias = not config.disable_bias_linear
        width = 2 * config.ffn_size if config.swiglu else config.ffn_size
        self.dense_h_to_4h = nn.Linear(config.hidden_size, width, bias=bias)
        self.dense_4h_to_h = nn.Linear(config.ffn_size, config.hidden_size, bias=bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Shape as `hidden_states`, [batch, sequence, hidden]."""
        if self.swiglu:
            gate, up = self.dense_h_to_4h(hidden_states).chunk(2, dim=-1)
            inner = functional.silu(gate) * up
        else:
            inner = gelu_of_linear(self.dense_h_to_4h, hidden_states, self.gelu)
        output: torch.Tensor = self.dense_4h_to_h(inner)
        return output


class TransformerLayer(nn.Module):
    """One layer: attention and feed-forward, each added to the residual stream.

    Args:
        layer_number: place in the model, from 1.
    """

    def __init__(self, config: ModelConfig, layer_number: int, *, causal: bool = True) -> None:
        super().__init__()
        self.layer_number = layer_number
        self.hidden_dropout = config.hidden_dropout
        self.recompute_activations = config.recompute_activations
        self.normalizes_before = config.normalization_position == "before"
        if self.normalizes_before:
            self.input_layernorm = make_norm(config)
        self.self_attention = SelfAttention(config, causal=causal)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = FeedForward(config)
        if not self.normalizes_before:
            self.output_layernorm = make_norm(config)

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
        """The new hidden states, [batch, sequence, hidden]; arguments as in `SelfAttention`.

        Recomputation happens in here, so that what is attached around the layer stands outside it.
        """
        arguments = (
            *(hidden_states, attention_mask, rotary_cos, rotary_sin),
            *(window, window_positions, document_ids),
        )
        if self.recompute_activations and self.training and torch.is_grad_enabled():
            recomputed: torch.Tensor = checkpoint(self._compute, *arguments, use_reentrant=False)
            return recomputed
        return self._compute(*arguments)

    def _compute(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        rotary_cos: torch.Tensor | None,
        rotary_sin: torch.Tensor | None,
        window: Window | None,
        window_positions: torch.Tensor | None,
        document_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        attention = self.self_attention(
            self.input_layernorm(hidden_states) if self.normalizes_before else hidden_states,
            attention_mask=attention_mask,
            rotary_cos=rotary_cos,
            rotary_sin=rotary_sin,
            window=window,
            window_positions=window_positions,
            document_ids=document_ids,
        )
        hidden_states = hidden_states + self._drop(attention)
        normalized = self.post_attention_layernorm(hidden_states)
        feed_forward = self._drop(self.mlp(normalized))
        if self.normalizes_before:
            return hidden_states + feed_forward
        output: torch.Tensor = self.output_layernorm(normalized + feed_forward)
        return output

    def _drop(self, branch: torch.Tensor) -> torch.Tensor:
        return functional.dropout(branch, self.hidden_dropout, self.training)
