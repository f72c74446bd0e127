"""Small models of each family and runs that hold them."""

from dataclasses import asdict

import torch

from data_efficiency.engine.whole_tensor import whole_tensors
from megatron.checkpoint.saving import save_checkpoint
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel
from megatron.tokenizer import train_bpe

MODERN = {
    "use_rotary_position_embeddings": True,
    "normalization": "rmsnorm",
    "swiglu": True,
    "num_key_value_heads": 2,
    "disable_bias_linear": True,
}
"""Settings of a model that is not GPT-2."""
GPT2 = ModelConfig(
    num_layers=2,
    hidden_size=24,
    num_attention_heads=3,
    ffn_hidden_size=40,
    vocab_size=300,
    max_position_embeddings=48,
    layernorm_epsilon=1e-3,
)
LLAMA = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=300,
    make_vocab_size_divisible_by=64,
    max_position_embeddings=48,
    rotary_position_embeddings_theta=500.0,
    **MODERN,
)
TEXTS = [
    "the cat sat on the mat",
    "a dog ran after the cat\n",
    "what is a mat? a mat is flat.",
] * 20


def make_gpt(config, seed=0):
    """A GPT in evaluation whose every weight, biases too, is far from a constant."""
    return make_model(GPTModel, config, seed)


def make_model(model_class, config, seed=0):
    """As `make_gpt`, of any of our classes."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def tiny(model_class, **changes):
    """A model just made, of 2 layers, 60 words and 24 positions; keyword arguments change it."""
    torch.manual_seed(0)
    fields = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 60}
    fields |= {"make_vocab_size_divisible_by": 16, "max_position_embeddings": 24}
    return model_class(ModelConfig(**(fields | changes)))


def save_run(folder, model, tokenizer=None, step=0):
    """A run with a checkpoint of the model, and the tokenizer beside it."""
    save_checkpoint(
        folder,
        step,
        weights=whole_tensors(model.state_dict()),
        optimizer_state=[],
        state={"model": asdict(model.config)},
        keep_last=0,
    )
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")
    return folder


def make_tokenizer():
    return train_bpe(TEXTS, 290)
