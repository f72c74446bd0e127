"""The rows that pad a vocabulary: not in a Hugging Face folder's model, but in a file of their own beside it.

A tokenizer never gives their ids, so a model that could choose them would write what nobody can decode. They
are kept because our checkpoint must come back bit for bit.
"""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from megatron.config import ModelConfig
from megatron.conversion.weights import Weights
from megatron.tokenizer import Tokenizer

PADDING_FILE = "vocabulary_padding.safetensors"
_VOCABULARY_FIRST = (
    "language_model.word_embeddings.weight",
    "output_layer.weight",
    "masked_lm_head.output_bias",
)
"""Weights of ours whose first dimension is the vocabulary; a model has some of them."""


def padding_multiple(vocab_size: int, rows: int) -> int:
    """A multiple to which `vocab_size` is rounded up as `rows`.

    Example:
        >>> padding_multiple(50257, 50304)
        128
    """
    usual = (1, 128)
    return next((n for n in usual if -(-vocab_size // n) * n == rows), rows)


def padded_to(config: ModelConfig, vocab_size: int, rows: int) -> ModelConfig:
    """The settings with a vocabulary that is padded to so many rows."""
    multiple = padding_multiple(vocab_size, rows)
    return replace(config, vocab_size=vocab_size, make_vocab_size_divisible_by=multiple)


def known_to(tokenizer: Tokenizer | None, config: ModelConfig) -> ModelConfig:
    """The settings where what a tokenizer does not know counts as padding; as they are without one."""
    if tokenizer is None or tokenizer.vocab_size >= config.vocab_size:
        return config
    return padded_to(config, tokenizer.vocab_size, config.padded_vocab_size)


def without_padding(
    config: ModelConfig, weights: Weights
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of ours without the rows that pad the vocabulary, and those rows by the same names."""
    kept, padding = dict(weights), {}
    if config.padded_vocab_size > config.vocab_size:
        for name in kept.keys() & set(_VOCABULARY_FIRST):
            kept[name] = weights[name][: config.vocab_size]
            padding[name] = weights[name][config.vocab_size :].contiguous()
    return kept, padding


def write_padding(folder: Path, padding: Weights) -> None:
    """Writes the rows into a folder, where there are any."""
    if padding:
        save_file(dict(padding), folder / PADDING_FILE)


def with_padding(
    folder: Path, config: ModelConfig, weights: Weights
) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Settings and weights of ours with the rows that a folder keeps apart, where it does.

    Raises:
        ValueError: if the rows are not of this model.
    """
    path = folder / PADDING_FILE
    if not path.is_file():
        return config, dict(weights)
    padding = load_file(path)
    joined = dict(weights)
    for name, rows in padding.items():
        if name not in weights or rows.shape[1:] != weights[name].shape[1:]:
            raise ValueError(f"{path} is of another model: take it away, or the model's own")
        joined[name] = torch.cat([weights[name], rows.to(weights[name].dtype)])
    num_rows = max(len(joined[name]) for name in padding)
    return padded_to(config, config.vocab_size, num_rows), joined
