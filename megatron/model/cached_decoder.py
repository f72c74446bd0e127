"""A GPT that reads each token once: keys and values of earlier tokens are kept.

It runs the parts of the model's layers itself, so the training path knows nothing of it and what is
attached around a layer (token dropping) has no part in it.
"""

import torch
from torch.nn import functional

from megatron.model.attention import SelfAttention
from megatron.model.gpt_model import GPTModel
from megatron.model.language_model import check_ids
from megatron.model.rotary import rotary_tables
from megatron.model.transformer import TransformerLayer


class CachedDecoder:
    """The model's view of a batch of growing sequences.

    Args:
        model: in evaluation; its weights are used, not copied.
        max_length: positions to make room for, padding included.
        num_padding: int64 [batch], positions at the start of each sequence that are not part of it;
            None for no padding.

    Raises:
        ValueError: if there is more room than the model has positions.
    """

    def __init__(
        self,
        model: GPTModel,
        batch_size: int,
        max_length: int,
        num_padding: torch.Tensor | None = None,
    ) -> None:
        config = model.config
        if max_length > config.max_position_embeddings:
            raise ValueError(
                f"prompt and new tokens take {max_length} positions: the model has"
                f" {config.max_position_embeddings} (--max-position-embeddings)"
            )
        self.length = 0
        """Positions read so far."""
        self._model = model
        self._max_length = max_length
        weight = model.output_weight
        self._num_padding = None if num_padding is None else num_padding.to(weight.device)
        shape = (config.num_layers, 2, batch_size, config.kv_heads, max_length, config.head_size)
        self._cache = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        if config.use_rotary_position_embeddings:
            theta = config.rotary_position_embeddings_theta
            self._tables = rotary_tables(max_length, config.head_size, theta, weight.device)

    @torch.inference_mode()
    def next_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [batch, vocabulary] of the token that follows, after reading some more.

        Args:
            tokens: int64 [batch, number read now]: the whole prompt at first, then one at a time.

        Raises:
            ValueError: if there is no room left, or an id lies outside the vocabulary.
        """
        start, end = self.length, self.length + tokens.shape[1]
        if end > self._max_length:
            raise ValueError(f"no room for position {end}: max_length is {self._max_length}")
        config, language_model = self._model.config, self._model.language_model
        check_ids(tokens, config.vocab_size, "token")
        positions = self._positions(start, end)
        hidden_states = language_model.word_embeddings(tokens)
        tables = None
        if self._tables is None:
            hidden_states = hidden_states + language_model.position_embeddings(positions)
        else:
            cos, sin = (table[0, positions] for table in self._tables)
            tables = (cos, sin)
        mask = self._mask(start, end)
        for layer, cache in zip(self._model.layers, self._cache, strict=True):
            hidden_states = _layer(layer, hidden_states, cache[..., :end, :], mask, tables)
        self.length = end
        last = language_model.final_layernorm(hidden_states[:, -1])
        return functional.linear(last, self._model.output_weight)[:, : config.vocab_size]

    def _positions(self, start: int, end: int) -> torch.Tensor:
        """[batch or 1, number read now]; padding has position 0."""
        positions = torch.arange(start, end, device=self._cache.device).unsqueeze(0)
        if self._num_padding is None:
            return positions
        return (positions - self._num_padding.unsqueeze(1)).clamp_(min=0)

    def _mask(self, start: int, end: int) -> torch.Tensor | None:
        """Bool [batch or 1, 1, number read now, end]; None where every key may be looked at."""
        if self._num_padding is None and end - start == 1:
            return None
        keys = torch.arange(end, device=self._cache.device)
        queries = keys[start:].unsqueeze(1)
        mask = (keys <= queries).unsqueeze(0)
        if self._num_padding is not None:
            # Padding looks at itself: a query without any key would be not a number.
            mask = mask & (keys >= self._num_padding.view(-1, 1, 1)) | (keys == queries)
        return mask.unsqueeze(1)


def _layer(
    layer: torch.nn.Module,
    hidden_states: torch.Tensor,
    cache: torch.Tensor,
    mask: torch.Tensor | None,
    tables: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    assert isinstance(layer, TransformerLayer)
    normalized = layer.input_layernorm(hidden_states)
    hidden_states = hidden_states + _attention(
        layer.self_attention, normalized, cache, mask, tables
    )
    feed_forward: torch.Tensor = layer.mlp(layer.post_attention_layernorm(hidden_states))
    return hidden_states + feed_forward


def _attention(
    attention: SelfAttention,
    hidden_states: torch.Tensor,
    cache: torch.Tensor,
    mask: torch.Tensor | None,
    tables: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    """As `SelfAttention`, on keys and values [2, batch, heads, positions, size], whose end it fills."""
    query, key, value = attention.heads(hidden_states, *(tables or ()))
    start = cache.shape[-2] - hidden_states.shape[1]
    cache[0, :, :, start:] = key
    cache[1, :, :, start:] = value
    context = functional.scaled_dot_product_attention(
        query, cache[0], cache[1], attn_mask=mask, enable_gqa=query.shape[1] != key.shape[1]
    )
    output: torch.Tensor = attention.dense(context.transpose(1, 2).flatten(2))
    return output
