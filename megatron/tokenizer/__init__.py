"""Tokenizers: text to token ids and back."""

from megatron.tokenizer.bpe import train_bpe
from megatron.tokenizer.special_tokens import END_OF_DOCUMENT
from megatron.tokenizer.tokenizer import NO_CHARACTER, Tokenizer
from megatron.tokenizer.tokenizer_files import add_tokenizer_flags, build_tokenizer, named_tokenizer
from megatron.tokenizer.wordpiece import train_wordpiece

__all__ = [
    "END_OF_DOCUMENT",
    "NO_CHARACTER",
    "Tokenizer",
    "add_tokenizer_flags",
    "build_tokenizer",
    "named_tokenizer",
    "train_bpe",
    "train_wordpiece",
]
