"""A tokenizer around one of Hugging Face's: text to token ids and back.

Text never turns into control tokens: an "<|endoftext|>" written inside a document is encoded as the
ordinary characters it is made of.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models

from data_efficiency import files
from megatron.tokenizer.special_tokens import (
    BERT_TOKENS,
    END_OF_DOCUMENT,
    usual_special_tokens,
)
from megatron.tokenizer.word_cache import WordCache, cuts_as_gpt2

NO_CHARACTER = "\ufffd"
"""What a decoder gives for bytes that are no character, or not yet."""

MOST_TOKENS = 1 << 24
"""Ids are rows of tables, which such an id would fill with nothing."""

StrPath = str | os.PathLike[str]


class Tokenizer:
    """Encoder and decoder around one Hugging Face tokenizer."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        origin: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        end_ids: Sequence[int] = (),
    ) -> None:
        self._backend = backend
        self._origin = origin
        vocabulary = backend.get_vocab(with_added_tokens=True)
        largest = max(vocabulary.values(), default=0)
        if largest >= MOST_TOKENS:
            raise ValueError(
                f"{origin}: a token of {len(vocabulary)} has id {largest}: must be below {MOST_TOKENS}"
            )
        if special_tokens is None:
            special_tokens = usual_special_tokens(vocabulary)
        self.special_tokens: Mapping[str, str] = dict(special_tokens)
        """Name, such as "eos_token", -> token."""
        own_end = [vocabulary[token] for token in (self.special_tokens.get("eos_token"),) if token]
        self.end_ids = tuple(dict.fromkeys([*end_ids, *own_end]))
        """Ids that end a text, in the order of their configuration."""
        # A file may ask for truncation or padding; a corpus wants each document whole.
        backend.no_truncation()
        backend.no_padding()
        known = {END_OF_DOCUMENT} & vocabulary.keys()
        backend.add_special_tokens([*known, *self.special_tokens.values()])
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

    def encode_as_transformers(self, text: str, *, with_template: bool = True) -> list[int]:
        """Token ids as transformers gives them: control tokens that stand in the text are read as such.

        Args:
            with_template: add what the tokenizer's file puts around a text, such as a beginning token.
        """
        self._backend.encode_special_tokens = False
        try:
            return self._backend.encode(text, add_special_tokens=with_template).ids
        finally:
            self._backend.encode_special_tokens = True

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a text to be continued: as a new text begins, without what would end it.

        Raises:
            ValueError: if nothing is left of an empty text, because no token begins or ends texts.
        """
        ids, plain = self.encode_as_transformers(text), self.encode(text)
        for start in range(len(ids) - len(plain) + 1):
            if plain and ids[start : start + len(plain)] == plain:
                return ids[: start + len(plain)]
        return ids if plain else [self.beginning]

    def decode(self, ids: Sequence[int], *, without_control: bool = False) -> str:
        """Text of token ids, control tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=without_control)

    def decode_after(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """Text of token ids that follow others, with the space between, which some decoders take away."""
        before = self.decode(context).rstrip(NO_CHARACTER)
        together = self.decode([*context, *ids])
        return together.removeprefix(before) if together.startswith(before) else self.decode(ids)

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
        """Id of the token that ends the documents of a corpus: "<|endoftext|>", or else what ends texts.

        Raises:
            ValueError: if the vocabulary has no such token.
        """
        token = (
            END_OF_DOCUMENT if self.has(END_OF_DOCUMENT) else self.special_tokens.get("eos_token")
        )
        if token is None:
            raise ValueError(
                f"{self._origin}: the vocabulary has no {END_OF_DOCUMENT!r} and no other token that ends"
                " texts; take a tokenizer that has one (tools/train_tokenizer.py adds it) or do without"
                " --append-eod"
            )
        return self.id_of(token)

    @property
    def beginning(self) -> int:
        """Id of the token that begins a text, or else of the one that ends the text before.

        Raises:
            ValueError: if the vocabulary has neither.
        """
        token = self.special_tokens.get("bos_token") or self.special_tokens.get("eos_token")
        if token is None:
            raise ValueError(
                f"{self._origin}: no token begins or ends texts, so there is nothing to begin an empty"
                " text with; name one as bos_token in tokenizer_config.json beside it"
            )
        return self.id_of(token)

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

    @property
    def bytes_of_tokens(self) -> NDArray[np.int64] | None:
        """How many bytes of text each token stands for, int64 [vocab_size]; a control token for none.

        None unless the tokens of a text are its bytes, all of them and no more: byte-level, without
        normalization and without a space before the text.
        """
        backend = json.loads(self._backend.to_str())
        adds_space = '"add_prefix_space": true' in json.dumps(backend["pre_tokenizer"])
        decoder = (backend["decoder"] or {}).get("type")
        if decoder != "ByteLevel" or backend["normalizer"] is not None or adds_space:
            return None
        num_bytes = np.zeros(self.vocab_size, np.int64)
        # Each byte is written as one character there; added tokens are written as they are.
        for token, number in self._backend.get_vocab(with_added_tokens=True).items():
            num_bytes[number] = len(token)
        for number, added in self._backend.get_added_tokens_decoder().items():
            num_bytes[number] = 0 if added.special else len(added.content.encode())
        return num_bytes

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
