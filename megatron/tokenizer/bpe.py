"""Byte-level BPE: GPT-2's files, and training."""

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_efficiency import files
from megatron.tokenizer.special_tokens import END_OF_DOCUMENT
from megatron.tokenizer.tokenizer import Tokenizer, read_text

MIN_VOCAB_SIZE = 257


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer learned from texts; the same texts give the same tokenizer.

    Args:
        texts: the documents, read once.
        vocab_size: entries wanted, the 256 bytes and "<|endoftext|>" included. Little text may
            give fewer.

    Raises:
        ValueError: if `vocab_size` is below 257.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"--vocab-size is {vocab_size}: must be at least {MIN_VOCAB_SIZE}, the 256 bytes and"
            f" {END_OF_DOCUMENT!r}"
        )
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, "the trained tokenizer")


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def bpe_of_files(vocab_file: Path, merge_file: Path) -> Tokenizer:
    """GPT-2's tokenizer from `vocab.json` and `merges.txt`; errors as of `build_tokenizer`."""
    vocab = _read_vocab(vocab_file)
    merges = _read_merges(merge_file)
    for number, pair in enumerate(merges, start=1):
        for piece in (*pair, "".join(pair)):
            if piece not in vocab:
                raise ValueError(
                    f"{merge_file}: merge {number} ({' '.join(pair)}) needs {piece!r}, which is not"
                    f" in {vocab_file}; the two files must come from the same tokenizer"
                )
    return Tokenizer(_byte_level(models.BPE(vocab=vocab, merges=merges)), str(vocab_file))


def _read_vocab(path: Path) -> dict[str, int]:
    vocab = files.parse_json(read_text(path), path)
    if not isinstance(vocab, dict) or not all(type(value) is int for value in vocab.values()):
        raise ValueError(f"{path}: not a vocabulary (one JSON object from token to id)")
    if len(set(vocab.values())) != len(vocab) or min(vocab.values(), default=0) < 0:
        raise ValueError(f"{path}: the ids must be distinct and not negative")
    missing = [symbol for symbol in pre_tokenizers.ByteLevel.alphabet() if symbol not in vocab]
    if missing:
        # Characters of a missing byte would vanish from the corpus without a word.
        raise ValueError(
            f"{path}: {len(missing)} of the 256 byte symbols are missing (such as"
            f" {min(missing)!r}); this is not a byte-level vocabulary"
        )
    return vocab


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    # Not splitlines(): the byte symbols contain none of its separators, a damaged file may.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        pieces = line.rstrip("\r").split(" ")
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        if len(pieces) != 2 or not all(pieces):
            raise ValueError(f"{path}:{number}: a merge is two tokens and a space, not {line!r}")
        merges.append((pieces[0], pieces[1]))
    return merges
