"""Texts to batches for BERT: [CLS] first [SEP], or [CLS] first [SEP] second [SEP], with padding."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from megatron.finetuning.data import Examples
from megatron.tokenizer import Tokenizer


class InputRows(NamedTuple):
    """Token ids of each example, and where its second segment starts."""

    ids: list[list[int]]
    second_starts: list[int]
    pad: int


def make_rows(examples: Examples, tokenizer: Tokenizer, max_length: int) -> InputRows:
    """The examples as ids with control tokens, the longer of two texts cut where they are too long.

    Raises:
        ValueError: if the vocabulary lacks one of BERT's control tokens.
    """
    cls, sep, pad = (tokenizer.id_of(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    first = [ids.tolist() for ids in tokenizer.encode_batch(examples.first)]
    if examples.second is None:
        ids = [[cls, *text[: max_length - 2], sep] for text in first]
        return InputRows(ids, [len(row) for row in ids], pad)
    second = [ids.tolist() for ids in tokenizer.encode_batch(examples.second)]
    ids, starts = [], []
    for left, right in zip(first, second, strict=True):
        num_left, num_right = _kept(len(left), len(right), max_length - 3)
        ids.append([cls, *left[:num_left], sep, *right[:num_right], sep])
        starts.append(num_left + 2)
    return InputRows(ids, starts, pad)


def make_batch(rows: InputRows, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
    """`BertModel.encode`'s arguments for some rows, as long as the longest of them."""
    lengths = np.array([len(rows.ids[i]) for i in chosen])
    places = np.arange(lengths.max())
    tokens = np.full((len(chosen), len(places)), rows.pad, np.int64)
    real = places < lengths[:, None]
    tokens[real] = np.concatenate([rows.ids[i] for i in chosen])
    starts = np.array([rows.second_starts[i] for i in chosen])
    second = real & (places >= starts[:, None])
    return {
        "tokens": torch.from_numpy(tokens),
        "token_types": torch.from_numpy(second.astype(np.int64)),
        "padding_mask": torch.from_numpy(real),
    }


def _kept(num_first: int, num_second: int, room: int) -> tuple[int, int]:
    """How much of two texts stays: tokens are taken from the end of the longer one."""
    if num_first + num_second <= room:
        return num_first, num_second
    if num_first <= num_second:
        kept = min(num_first, room // 2)
        return kept, room - kept
    kept = min(num_second, room // 2)
    return room - kept, kept
