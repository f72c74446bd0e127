"""The transformer without its output layer: token ids to normalized hidden states."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from megatron.config import ModelConfig
from megatron.model.attention_window import Window
from megatron.model.rotary import rotary_tables
from megatron.model.transformer import TransformerLayer, make_norm


class LanguageModel(nn.Module):
    """Embedding, transformer layers, and the normalization at the end or after the embedding."""

    def __init__(self, config: ModelConfig, *, causal: bool = True) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        if not config.use_rotary_position_embeddings:
            self.position_embeddings = nn.Embedding(
                config.max_position_embeddings, config.hidden_size
            )
        if config.num_token_types:
            self.token_type_embeddings = nn.Embedding(config.num_token_types, config.hidden_size)
        self.normalizes_before = config.normalization_position == "before"
        if not self.normalizes_before:
            self.embedding_layernorm = make_norm(config)
        self.layers = nn.ModuleList(
            TransformerLayer(config, layer_number, causal=causal)
            for layer_number in range(1, config.num_layers + 1)
        )
        if self.normalizes_before:
            self.final_layernorm = make_norm(config)

    def forward(
        self,
        tokens: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None = None,
        token_types: torch.Tensor | None = None,
        window: Window | None = None,
        document_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [batch, sequence, hidden] after the last normalization.

        Args:
            tokens: int64 [batch, sequence], each below the vocabulary's size; or [batch, sequence, bag], where a
                position is the mean of its tokens' embeddings.
            token_types: int64 [batch, sequence], each below the number of token types; None for
                type 0 everywhere.
            window: how far causal attention looks; None: as far as it can.
            document_ids: int64 [batch, sequence], rising along a row: causal attention stays inside what has one number.
            position_ids: int64 [batch or 1, sequence], each below the sequence's length; None: 0, 1, ... along each row.

        Raises:
            ValueError: if the sequence is too long or not a batch, or (on a CPU, where looking
                costs next to nothing) a token id lies outside the vocabulary.
        """
        self._check(tokens, token_types)
        hidden_states = self.word_embeddings(tokens)
        if tokens.dim() == 3:
            hidden_states = hidden_states.mean(2)
        tables: dict[str, Any] = {} if document_ids is None else {"document_ids": document_ids}
        if window is not None:
            places = torch.arange(tokens.shape[1], device=tokens.device)
            tables |= {"window": window, "window_positions": places.unsqueeze(0)}
        if self.config.use_rotary_position_embeddings:
            tables |= self._rotary(tokens, position_ids)
        else:
            if position_ids is None:
                position_ids = torch.arange(tokens.shape[1], device=tokens.device)
            hidden_states = hidden_states + self.position_embeddings(position_ids)
        if self.config.num_token_types:
            types = torch.zeros_like(tokens) if token_types is None else token_types
            hidden_states = hidden_states + self.token_type_embeddings(types)
        if not self.normalizes_before:
            hidden_states = self.embedding_layernorm(hidden_states)
        hidden_states = functional.dropout(hidden_states, self.config.hidden_dropout, self.training)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=attention_mask, **tables)
        if self.normalizes_before:
            hidden_states = self.final_layernorm(hidden_states)
        return hidden_states

    def _rotary(
        self, tokens: torch.Tensor, position_ids: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The rotary tables of the tokens' positions, by the names that layers call them."""
        size, theta = self.config.head_size, self.config.rotary_position_embeddings_theta
        tables = rotary_tables(tokens.shape[1], size, theta, tokens.device)
        if position_ids is not None:
            tables = tables[0][0][position_ids], tables[1][0][position_ids]
        return dict(zip(("rotary_cos", "rotary_sin"), tables, strict=True))

    def _check(self, tokens: torch.Tensor, token_types: torch.Tensor | None) -> None:
        if tokens.dim() != 2 and (tokens.dim() != 3 or self.config.num_token_types):
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}: must be [batch, sequence]")
        longest = self.config.max_position_embeddings
        if tokens.shape[1] > longest:
            raise ValueError(
                f"tokens have {tokens.shape[1]} positions: at most {longest} "
                "(--max-position-embeddings)"
            )
        check_ids(tokens, self.config.vocab_size, "token")
        num_types = max(1, self.config.num_token_types)
        if token_types is not None and _largest(token_types) >= num_types:
            raise ValueError(
                f"token type {_largest(token_types)} is outside the model's {num_types}"
                " (--num-token-types)"
            )


def check_ids(ids: torch.Tensor, vocab_size: int, kind: str) -> None:
    """Raise ValueError, naming the largest id, unless each id is below the vocabulary's size.

    Only on a CPU: elsewhere the look would stall the device, whose own kernels assert. The rows that
    pad the embedding make a look necessary: an id that falls on one would go through.
    """
    largest = _largest(ids)
    if largest >= vocab_size:
        raise ValueError(
            f"{kind} id {largest} is outside the vocabulary of {vocab_size} entries (--vocab-size): "
            "was the corpus made with another tokenizer?"
        )


def check_documents(
    tokens: torch.Tensor,
    attention_mask: torch.Tensor | None,
    document_ids: torch.Tensor | None,
    position_ids: torch.Tensor | None,
) -> None:
    """Raise ValueError unless documents and positions are those of the tokens.

    What they hold is looked at on a CPU alone, as by `check_ids`.
    """
    for name, ids in (("document_ids", document_ids), ("position_ids", position_ids)):
        if ids is not None and ids.shape != tokens.shape:
            raise ValueError(
                f"{name} have shape {tuple(ids.shape)}, tokens {tuple(tokens.shape)}: must be equal"
            )
    if document_ids is not None and attention_mask is not None:
        raise ValueError(
            "documents limit causal attention, and a mask replaces it: give one of them"
        )
    if document_ids is not None and _largest(document_ids[:, :-1] - document_ids[:, 1:]) > 0:
        raise ValueError(
            "document_ids fall along a row: each document's must be above those before it"
        )
    if position_ids is not None and _largest(position_ids) >= tokens.shape[1]:
        raise ValueError(
            f"position {_largest(position_ids)} is in a row of {tokens.shape[1]}: must be below its length"
        )


def _largest(ids: torch.Tensor) -> int:
    """The largest id where a look costs next to nothing, else -1."""
    if ids.device.type != "cpu" or ids.numel() == 0 or torch.compiler.is_compiling():
        return -1
    return int(ids.max())


def initialize_weights(model: nn.Module, config: ModelConfig) -> None:
    """Draws all weights from torch's generator, in the order of the model's modules.

    Matrices and embeddings are normal with `init_method_std`; those that write into the residual
    stream are divided by sqrt(2 x layers). Biases start at 0, normalizations at 1.

    Source: GPT-2 (Radford et al., 2019), section 2.3; Megatron-LM's scaled initialization.
    """
    scaled = config.init_method_std / math.sqrt(2 * config.num_layers)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        writes_residual = name.endswith(("self_attention.dense", "dense_4h_to_h"))
        nn.init.normal_(module.weight, std=scaled if writes_residual else config.init_method_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
