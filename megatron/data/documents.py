"""Rows that hold several documents: which document each token is of, its place there, and what stays out of the loss.

The token that ends a text tells documents, as Megatron's flags mean it: it is the last one of its document. A row that begins
inside a document begins with a document of its own.

Source: `--reset-position-ids`, `--reset-attention-mask` and `--eod-mask-loss` of Megatron-LM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency import IGNORED_LABEL

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What the ends of documents change; nothing where all are False."""

    reset_attention_mask: bool = False
    """Whether samples tell documents, for attention to stay inside them."""
    reset_position_ids: bool = False
    """Whether samples tell positions, counted from each document's first token."""
    eod_mask_loss: bool = False
    """Whether the first token of a document is no label where it follows the end of another one."""
    end_of_text: int | None = None
    """The tokenizer's, where a corpus does not say it."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What is on."""
        names = ("reset_attention_mask", "reset_position_ids", "eod_mask_loss")
        return tuple(name for name in names if getattr(self, name))

    def known_end(self, metadata: Mapping[str, Any] | None) -> int | None:
        """Id of the token that ends the documents of a corpus; None where there is none, or nobody says it."""
        end = (metadata or {}).get("eod", self.end_of_text)
        return None if end is None else int(end)

    def end_in(self, prefix: str, metadata: Mapping[str, Any] | None) -> int:
        """Id of the token that ends the documents of a corpus.

        Raises:
            ValueError: if there is none, or it is not known.
        """
        flag = f"--{self.flags[0].replace('_', '-')}"
        end = self.known_end(metadata)
        if metadata is not None and "eod" in metadata and end is None:
            raise ValueError(
                f"{flag}: no token ends the documents of {prefix}: make it with tools/preprocess_data.py --append-eod"
            )
        if end is None:
            raise ValueError(
                f"{flag}: {prefix} does not say which token ends its documents: give its tokenizer (--tokenizer-file)"
            )
        return end

    def entries(self, tokens: Int64Array, labels: Int64Array, end: int) -> dict[str, Int64Array]:
        """The labels of some rows, and what is told of their documents, [rows, length] each.

        Args:
            tokens: int64 [rows, length].
            labels: likewise, the token that follows each.
            end: the token that ends documents.

        Example:
            >>> rows = np.array([[5, 9, 6, 7, 9]]), np.array([[9, 6, 7, 9, 8]])
            >>> on = Documents(reset_attention_mask=True, reset_position_ids=True, eod_mask_loss=True)
            >>> for name, entry in on.entries(*rows, end=9).items():
            ...     print(name, entry[0].tolist())
            labels [9, -100, 7, 9, -100]
            document_ids [0, 0, 1, 1, 1]
            position_ids [0, 1, 0, 1, 2]
        """
        ends = tokens == end
        if self.eod_mask_loss:
            labels = np.where(ends, IGNORED_LABEL, labels)
        found = {"labels": labels}
        if self.reset_attention_mask:
            found["document_ids"] = np.cumsum(ends, 1) - ends
        if self.reset_position_ids:
            places = np.arange(tokens.shape[1])
            begins = np.zeros_like(tokens)
            begins[:, 1:] = places[1:] * ends[:, :-1]
            found["position_ids"] = places - np.maximum.accumulate(begins, 1)
        return found
