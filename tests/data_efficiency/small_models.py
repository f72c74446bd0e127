"""A small language model of the library's own tests, and settings of token dropping that fit it."""

import torch
from torch import nn
from torch.nn import functional

from data_efficiency.config import RandomLTDConfig
from data_efficiency.schedule import CustomSchedule

ROWS, LENGTH, KEPT, NUM_LAYERS, VOCABULARY = 3, 12, 5, 4, 50
DROPPING = (1, 2)


def dropping(kept=KEPT, **changes):
    """Settings that keep so many tokens in the layers DROPPING; keyword arguments change them."""
    fields = {
        "total_layer_num": NUM_LAYERS,
        "random_ltd_layer_num": 2,
        "random_ltd_layer_id": DROPPING,
        "model_mask_name": None,
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
        "schedule": CustomSchedule(function=lambda step: kept),
        "seed": 11,
    }
    return RandomLTDConfig(**(fields | changes))


class Block(nn.Module):
    """Causal attention and a feed-forward part, each added to the stream [rows, length, size]."""

    def __init__(self, size):
        super().__init__()
        self.norm, self.query_key_value = nn.LayerNorm(size), nn.Linear(size, 3 * size)
        self.dense = nn.Linear(size, size)

    def forward(self, hidden, attention_mask=None):
        heads = self.query_key_value(self.norm(hidden)).unflatten(-1, (3, 4, -1))
        query, key, value = heads.transpose(1, 3).unbind(2)
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None
        )
        hidden = hidden + context.transpose(1, 2).flatten(2)
        return hidden + functional.gelu(self.dense(hidden))


class SmallModel(nn.Module):
    """Logits [rows, length, vocabulary], or with labels the summed loss."""

    def __init__(self, size=16, length=LENGTH, vocabulary=VOCABULARY):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(vocabulary, size), nn.Embedding(length, size)
        for embeddings in (self.words, self.positions):
            nn.init.normal_(embeddings.weight, std=0.1)
        self.layers = nn.ModuleList(Block(size) for _ in range(NUM_LAYERS))

    def embed(self, tokens):
        return self.words(tokens) + self.positions.weight[: tokens.shape[1]]

    def run(self, layer, hidden):
        return layer(hidden)

    def forward(self, tokens, labels=None):
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = self.run(layer, hidden)
        logits = hidden @ self.words.weight.T
        if labels is None:
            return logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
