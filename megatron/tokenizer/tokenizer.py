"""A tokenizer around one of Hugging Face's: text to token ids and back.

Text never turns into control tokens: an "<|endoftext|>" written inside a document is encoded as the
ordinary characters it is made of.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models

from data_efficiency import files
from megatron.tokenizer.word_cache import WordCache, cuts_as_gpt2

END_OF_DOCUMENT = "<|endoftext|>"
BERT_TOKENS = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}

StrPath = str | os.PathLike[str]


class Tokenizer:
    """Encoder and decoder around one Hugging Face tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer, origin: str) -> None:
        self._backend = backend
        self._origin = origin
        # A file may ask for truncation or padding; a corpus wants each document whole.
        backend.no_truncation()
        backend.no_padding()
        if backend.token_to_id(END_OF_DOCUMENT) is not None:
            backend.add_special_tokens([END_OF_DOCUMENT])
        backend.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any added control tokens."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, as `encode` gives them."""
        if self._words is not None:
            return self._words.encode_batch(texts)
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    @cached_property
    def _words(self) -> WordCache | None:
        return WordCache(self._backend) if cuts_as_gpt2(self._backend) else None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def save(self, path: StrPath) -> None:
        """Write `tokenizer.json`."""
        files.write_file(path, self._backend.to_str(pretty=True) + "\n")

    def has(self, token: str) -> bool:
        """Whether the vocabulary has this token as one entry."""
        return self._backend.token_to_id(token) is not None

    def id_of(self, token: str) -> int:
        """Id of a token that is one entry of the vocabulary.

        Raises:
            ValueError: if it is none.
        """
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise ValueError(f"{self._origin}: the vocabulary has no {token!r}")
        return token_id

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def eod(self) -> int:
        """Id of the end-of-document token, "<|endoftext|>".

        Raises:
            ValueError: if the vocabulary has no such token.
        """
        token_id = self._backend.token_to_id(END_OF_DOCUMENT)
        if token_id is None:
            raise ValueError(
                f"{self._origin}: the vocabulary has no {END_OF_DOCUMENT!r}; take a tokenizer that"
                " has it (tools/train_tokenizer.py adds it) or do without --append-eod"
            )
        return token_id

    @property
    def control_tokens(self) -> dict[str, int]:
        """Ids of BERT's control tokens by the names "cls", "sep", "pad" and "mask".

        Raises:
            ValueError: if the vocabulary lacks one.
        """
        missing = [token for token in BERT_TOKENS.values() if not self.has(token)]
        if missing:
            raise ValueError(
                f"{self._origin}: the vocabulary has no {' and no '.join(missing)}; BERT needs a"
                " WordPiece tokenizer (tools/train_tokenizer.py --type wordpiece makes one)"
            )
        return {name: self.id_of(token) for name, token in BERT_TOKENS.items()}

    @property
    def continuations(self) -> NDArray[np.bool_]:
        """For each token id whether it continues a word, bool [vocab_size].

        Raises:
            ValueError: if it is not a WordPiece tokenizer, whose tokens tell.
        """
        prefix = getattr(self._backend.model, "continuing_subword_prefix", None)
        if not isinstance(self._backend.model, models.WordPiece) or not prefix:
            raise ValueError(
                f"{self._origin}: not WordPiece, so no token tells if it goes on a word"
            )
        flags = np.zeros(self.vocab_size, np.bool_)
        for token, number in self._backend.get_vocab(with_added_tokens=True).items():
            flags[number] = token.startswith(prefix)
        return flags

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over vocabulary and merges, the same whichever files they came from.

        Of WordPiece it is over what is done to the text first, too: upper case may be kept or not.
        """
        backend = json.loads(self._backend.to_str())
        merges = [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in backend["model"].get("merges", [])
        ]
        vocabulary = sorted(self._backend.get_vocab(with_added_tokens=True).items())
        content: list[object] = [vocabulary, merges]
        if backend["model"]["type"] == "WordPiece":
            content.append(backend["normalizer"])
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_text(path: Path) -> str:
    """Content of a tokenizer's file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such tokenizer file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a tokenizer file (not UTF-8 text)") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror})") from None
