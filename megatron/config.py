"""Frozen settings of a training run, one keyword-only dataclass a topic.

Each field carries its docstring below it: meaning, unit, legal range. `megatron/arguments.py` turns
the fields into command-line flags (`hidden_size` becomes `--hidden-size`) and
`tools/generate_docs.py` into docs/config.md, so this file is the one place where a setting is
described. `None` means "not used" and is never filled in later: derived values are properties.
"""

from dataclasses import dataclass
from typing import Literal


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Nothing, if `condition` holds.

    Raises:
        ValueError: with the flag, its value and the rule, if it does not.
    """
    if not condition:
        flag = "--" + field.replace("_", "-")
        raise ValueError(f"{flag} is {value!r}: {rule}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape and numerics of the transformer."""

    num_layers: int = 12
    """Transformer layers."""
    hidden_size: int = 768
    """Width of the residual stream. A multiple of the number of attention heads."""
    num_attention_heads: int = 12
    """Query heads of each attention."""
    num_key_value_heads: int | None = None
    """Key and value heads (grouped-query attention). Not given: as many as query heads."""
    ffn_hidden_size: int | None = None
    """Inner width of the feed-forward part. Not given: 4 x hidden size, with SwiGLU 8/3 x hidden
    size rounded down to a multiple of 64."""
    vocab_size: int = 50257
    """Entries of the tokenizer's vocabulary."""
    make_vocab_size_divisible_by: int = 128
    """The embedding is padded up to a multiple of this."""
    max_position_embeddings: int = 1024
    """Longest sequence the model accepts, in tokens."""
    use_rotary_position_embeddings: bool = False
    """Rotary position embeddings instead of learned ones."""
    rotary_position_embeddings_theta: float = 10000.0
    """Base of the rotary frequencies."""
    normalization: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalization before attention, before the feed-forward part and at the end."""
    layernorm_epsilon: float = 1e-5
    """Added to the variance in the normalization."""
    swiglu: bool = False
    """SwiGLU feed-forward instead of GELU."""
    disable_bias_linear: bool = False
    """No bias in the linear layers."""
    untie_embeddings_and_output_weights: bool = False
    """An output matrix of its own instead of the transposed embedding."""
    attention_dropout: float = 0.0
    """Probability of dropping an attention weight, 0 <= p < 1."""
    hidden_dropout: float = 0.0
    """Probability of dropping an activation before a residual addition, 0 <= p < 1."""
    init_method_std: float = 0.02
    """Standard deviation of the normal initialization; output projections use it divided by
    sqrt(2 x layers)."""
    recompute_activations: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        """Checks the fields against each other."""
        for name in ("num_layers", "hidden_size", "num_attention_heads", "vocab_size"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"must be a multiple of --num-attention-heads ({self.num_attention_heads})",
        )
        require(
            self.num_attention_heads % self.kv_heads == 0,
            "num_key_value_heads",
            self.num_key_value_heads,
            f"must divide --num-attention-heads ({self.num_attention_heads})",
        )
        require(
            not self.use_rotary_position_embeddings or self.head_size % 2 == 0,
            "hidden_size",
            self.hidden_size,
            "rotary embeddings need an even number of channels in a head",
        )
        for name in ("attention_dropout", "hidden_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "must be at least 0 and below 1")

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return (
            self.num_attention_heads
            if self.num_key_value_heads is None
            else self.num_key_value_heads
        )

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """Inner width of the feed-forward part."""
        if self.ffn_hidden_size is not None:
            return self.ffn_hidden_size
        if self.swiglu:
            return max(64, self.hidden_size * 8 // 3 // 64 * 64)
        return 4 * self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding matrix."""
        multiple = self.make_vocab_size_divisible_by
        return -(-self.vocab_size // multiple) * multiple
