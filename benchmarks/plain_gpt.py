"""GPT-2 as a short PyTorch script has it: no options, no library; the peer that a user would write.

One class for the model, its loss inside, meant for `torch.compile` as a whole, as in nanoGPT's spirit:
tied embeddings, PyTorch's fused attention, mean cross entropy over the logits of all tokens.
"""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and feed-forward, each behind a normalization."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """The stream [batch, sequence, width] with both branches added."""
        batch, length, width = stream.shape
        query, key, value = (
            part.view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in self.heads(self.norm_1(stream)).split(width, dim=2)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.join(seen.transpose(1, 2).reshape(batch, length, width))
        inner = functional.gelu(self.widen(self.norm_2(stream)), approximate="tanh")
        return stream + self.narrow(inner)


class PlainGPT(nn.Module):
    """The whole model; called with labels it is its mean loss."""

    def __init__(
        self, *, num_layers: int, width: int, num_heads: int, vocab_size: int, length: int
    ) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size, bias=False)
        self.output.weight = self.words.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy; both int64 [batch, sequence]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.words(tokens) + self.positions(places)
        for block in self.blocks:
            stream = block(stream)
        logits = self.output(self.norm(stream))
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
