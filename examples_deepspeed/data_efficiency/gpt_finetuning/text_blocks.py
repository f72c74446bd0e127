"""Text from a hub data set, JSON lines or plain files, as blocks of tokens of one length."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from data_efficiency import IGNORED_LABEL
from megatron.config import TextRunConfig
from megatron.corpus.text_sources import find_sources, read_blocks, texts_of

ROWS_PER_CALL = 1000


@dataclass(frozen=True)
class TextSplits:
    """Texts of the three parts, which share no document."""

    train: list[str]
    validation: list[str]
    test: list[str]


class TokenBlocks:
    """Blocks of tokens; sample i is block i. Labels are the next tokens of the same block.

    Args:
        tokens: int32 [blocks, length].
        vocab_size: entries of the vocabulary.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int) -> None:
        self.tokens = tokens
        self.vocab_size = vocab_size
        self.sequence_length = tokens.shape[1]
        digest = hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()
        self.identity = {"type": "TokenBlocks", "shape": list(tokens.shape), "sha256": digest}

    def __len__(self) -> int:
        return len(self.tokens)

    def get_batch(self, samples: np.ndarray, _visits: np.ndarray) -> dict[str, torch.Tensor]:
        """`input_ids` and `labels`, int64 [rows, length]; a block's last position has no label."""
        rows = torch.from_numpy(self.tokens[samples].astype(np.int64))
        labels = torch.full_like(rows, IGNORED_LABEL)
        labels[:, :-1] = rows[:, 1:]
        return {"input_ids": rows, "labels": labels}

    def token_spans(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blocks first..last-1 for the analysis: their tokens, where each starts, how long it is."""
        starts = np.arange(last - first, dtype=np.int64) * self.sequence_length
        return (
            self.tokens[first:last].reshape(-1),
            starts,
            np.full(last - first, self.sequence_length, np.int64),
        )


def make_blocks(
    texts: Sequence[str], tokenizer: Any, block_size: int, *, separate: bool, group_rows: int
) -> TokenBlocks:
    """Texts tokenized, laid end to end and cut; what does not fill a block is left out.

    Args:
        texts: documents or sentences.
        tokenizer: a Hugging Face tokenizer.
        block_size: tokens of a block.
        separate: put the end-of-text token behind each text.
        group_rows: start anew after so many texts, each time leaving out the rest; 0: never. The
            published script does so every 1,000 sentences.

    Raises:
        ValueError: if there is not one block.
    """
    ending = [tokenizer.eos_token_id] if separate and tokenizer.eos_token_id is not None else []
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), ROWS_PER_CALL):
        part = list(texts[start : start + ROWS_PER_CALL])
        ids = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        rows += [np.array(one + ending, np.int32) for one in ids]
    size = group_rows or len(rows) or 1
    blocks = []
    for start in range(0, len(rows), size):
        flat = np.concatenate(rows[start : start + size])
        blocks.append(flat[: len(flat) // block_size * block_size].reshape(-1, block_size))
    tokens = np.concatenate(blocks) if blocks else np.zeros((0, block_size), np.int32)
    if not len(tokens):
        raise ValueError(
            f"{len(texts)} texts do not fill one block of {block_size} tokens: give more text or a "
            "smaller --seq-length"
        )
    return TokenBlocks(tokens, len(tokenizer))


def read_splits(source: str, *, config_name: str | None, shares: Sequence[float]) -> TextSplits:
    """The texts of a hub data set or of a file, in three parts.

    A file or a data set without validation and test is divided by documents, in their order's hash.

    Args:
        source: path of a `.jsonl` or plain text file, or the name of a data set on the hub.
        config_name: of the data set.
        shares: of validation and test, where the source is to be divided.

    Raises:
        ValueError: if a part is left without text.
        ModuleNotFoundError: if the source is on the hub and `datasets` is not installed.
    """
    if Path(source).exists() or source.endswith((".jsonl", ".txt")):
        splits = divide(texts_of_file(Path(source)), shares)
    else:
        splits = _from_hub(source, config_name, shares)
    for name in ("train", "validation", "test"):
        if not getattr(splits, name):
            raise ValueError(
                f"{source} leaves no text for {name}: give more text or other --validation-share and --test-share"
            )
    return splits


def texts_of_file(path: Path) -> list[str]:
    """The texts of a JSON-lines file's field "text", or the lines of a plain file.

    Raises:
        ValueError: for a line that is no JSON object with a "text", by its number.
    """
    if path.suffix == ".txt":
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    blocks = read_blocks(find_sources([path])[0])
    return [text for block in blocks for (text,) in texts_of(block, ["text"])]


def divide(texts: Iterable[str], shares: Sequence[float]) -> TextSplits:
    """Texts in three parts by their own hash: the same on every machine, whatever their order."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for text in texts:
        place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
        if place < shares[0]:
            parts["validation"].append(text)
        elif place < shares[0] + shares[1]:
            parts["test"].append(text)
        else:
            parts["train"].append(text)
    return TextSplits(**parts)


def _from_hub(name: str, config_name: str | None, shares: Sequence[float]) -> TextSplits:
    try:
        from datasets import load_dataset  # noqa: PLC0415  only data sets on the hub need it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is no file here, and data sets on the hub need: pip install datasets"
        ) from error
    found = load_dataset(name, config_name)
    column = "text" if "text" in found["train"].column_names else found["train"].column_names[0]
    if "validation" in found and "test" in found:
        return TextSplits(*(list(found[part][column]) for part in ("train", "validation", "test")))
    return divide(found["train"][column], shares)


def split_blocks(config: TextRunConfig) -> dict[str, TokenBlocks]:
    """The three parts of the text as blocks.

    Raises:
        ValueError: if the model has fewer positions than a block, or a part has no block.
    """
    data, source = config.data, config.model.pretrained
    positions = getattr(AutoConfig.from_pretrained(source), "max_position_embeddings", None)
    if positions is not None and data.seq_length > positions:
        raise ValueError(
            f"--seq-length is {data.seq_length}, but {source} has {positions} positions: choose at most "
            "that"
        )
    if data.text is None:
        raise ValueError("--text is missing: name a data set on the hub, a .jsonl or a text file")
    tokenizer = AutoTokenizer.from_pretrained(source)
    shares = (data.validation_share, data.test_share)
    splits = read_splits(data.text, config_name=data.text_config, shares=shares)
    blocks = {}
    for name in ("train", "validation", "test"):
        made = make_blocks(
            getattr(splits, name),
            tokenizer,
            data.seq_length,
            separate=data.separator,
            group_rows=data.group_rows,
        )
        most = data.max_train_blocks if name == "train" else data.max_eval_blocks
        blocks[name] = TokenBlocks(made.tokens[:most], made.vocab_size)
    return blocks
