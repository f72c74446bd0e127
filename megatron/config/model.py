"""Shape and numerics of the model that is pretrained."""

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron.setting_rules import NOT_NEGATIVE, POSITIVE, SHARE_BELOW_ONE, Settings, require


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Shape and numerics of the transformer."""

    num_layers: Annotated[int, POSITIVE] = 12
    """Transformer layers."""
    hidden_size: Annotated[int, POSITIVE] = 768
    """Width of the residual stream. A multiple of the number of attention heads."""
    num_attention_heads: Annotated[int, POSITIVE] = 12
    """Query heads of each attention."""
    num_key_value_heads: Annotated[int | None, POSITIVE] = None
    """Key and value heads (grouped-query attention). Not given: as many as query heads."""
    ffn_hidden_size: Annotated[int | None, POSITIVE] = None
    """Inner width of the feed-forward part. Not given: 4 x hidden size, with SwiGLU 8/3 x hidden
    size rounded down to a multiple of 64."""
    vocab_size: Annotated[int, POSITIVE] = 50257
    """Entries of the tokenizer's vocabulary."""
    make_vocab_size_divisible_by: Annotated[int, POSITIVE] = 128
    """The embedding is padded up to a multiple of this."""
    max_position_embeddings: Annotated[int, POSITIVE] = 1024
    """Longest sequence the model accepts, in tokens."""
    num_token_types: Annotated[int, NOT_NEGATIVE] = 0
    """Kinds of tokens with an embedding each, added to the word's: 2 for BERT's two segments, 0 for
    none."""
    use_rotary_position_embeddings: bool = False
    """Rotary position embeddings instead of learned ones."""
    rotary_position_embeddings_theta: Annotated[float, POSITIVE] = 10000.0
    """Base of the rotary frequencies."""
    normalization: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalization before attention, before the feed-forward part and at the end."""
    normalization_position: Literal["before", "after"] = "before"
    """Normalize what attention and feed-forward read (with one more at the end), or each sum that they
    add to and the embeddings, as the original BERT does. GPT has the first only."""
    layernorm_epsilon: Annotated[float, POSITIVE] = 1e-5
    """Added to the variance in the normalization."""
    swiglu: bool = False
    """SwiGLU feed-forward instead of GELU."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """GELU by GPT-2's approximation with tanh, or by the error function as BERT does."""
    disable_bias_linear: bool = False
    """No bias in the linear layers."""
    untie_embeddings_and_output_weights: bool = False
    """An output matrix of its own instead of the transposed embedding."""
    attention_dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Probability of dropping an attention weight, 0 <= p < 1."""
    hidden_dropout: Annotated[float, SHARE_BELOW_ONE] = 0.0
    """Probability of dropping an activation before a residual addition, 0 <= p < 1."""
    init_method_std: Annotated[float, POSITIVE] = 0.02
    """Standard deviation of the normal initialization; output projections use it divided by
    sqrt(2 x layers)."""
    recompute_activations: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def require_even_parts(self, num_processes: int) -> None:
        """Raise ValueError for what so many processes cannot share evenly (tensor parallelism)."""
        for name, value, number, what in (
            ("num_attention_heads", self.num_attention_heads, self.num_attention_heads, "heads"),
            ("num_key_value_heads", self.num_key_value_heads, self.kv_heads, "heads"),
            ("ffn_hidden_size", self.ffn_hidden_size, self.ffn_size, "inner channels"),
            (
                *("make_vocab_size_divisible_by", self.make_vocab_size_divisible_by),
                *(self.padded_vocab_size, "rows of the embedding"),
            ),
        ):
            require(
                number % num_processes == 0,
                name,
                value,
                f"{number} {what} cannot be shared evenly by --tensor-model-parallel-size ({num_processes}) processes: "
                "make them a multiple of it, or take --fsdp 3",
            )

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
