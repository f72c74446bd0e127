"""Tokenizers: text to token ids and back."""

from megatron.tokenizer.bpe import END_OF_DOCUMENT, Tokenizer, build_tokenizer, train_bpe

__all__ = ["END_OF_DOCUMENT", "Tokenizer", "build_tokenizer", "train_bpe"]
