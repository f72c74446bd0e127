"""The GPT that benchmarks train: its shape, our model of it and Hugging Face's, and its operations."""

from dataclasses import dataclass
from typing import Any

from data_efficiency import ModelShape, StepShape, training_flops
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its batch."""

    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int
    sequence_length: int = 512
    num_rows: int = 4

    @property
    def name(self) -> str:
        """As printed and as a key of the figures."""
        return f"{self.num_layers}x{self.hidden_size}x{self.vocab_size}"

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.num_rows * self.sequence_length


def our_model(shape: Shape) -> GPTModel:
    """Our model of the shape."""
    return GPTModel(_our_config(shape))


def _our_config(shape: Shape) -> ModelConfig:
    return ModelConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        num_attention_heads=shape.num_heads,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.sequence_length,
    )


def peer_model(shape: Shape, side: str) -> Any:
    """The peer's model of the shape; `side` is one of `PEERS`."""
    # Only the peer's own processes pay for the import, in time and in memory.
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        n_layer=shape.num_layers,
        n_embd=shape.hidden_size,
        n_head=shape.num_heads,
        vocab_size=shape.vocab_size,
        n_positions=shape.sequence_length,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
    if side == "huggingface_tuned":
        config.activation_function = "gelu_pytorch_tanh"
    return transformers.GPT2LMHeadModel(config)


def step_flops(shape: Shape) -> int:
    """Floating-point operations of a step of one micro-batch."""
    return training_flops(
        StepShape(num_rows=shape.num_rows, sequence_length=shape.sequence_length),
        ModelShape(
            num_layers=shape.num_layers,
            hidden_size=shape.hidden_size,
            query_size=shape.hidden_size,
            key_value_size=shape.hidden_size,
            ffn_size=4 * shape.hidden_size,
            num_ffn_matrices=2,
            vocab_size=shape.vocab_size,
        ),
    )
