"""A tokenizer for texts that come without tokens."""

import hashlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"


class TextTokenizer:
    """Texts to tokens and back, by a tokenizer of Hugging Face's `tokenizers`.

    Args:
        source: a `tokenizer.json`, a folder that holds one, a `tokenizers.Tokenizer`, or a fast tokenizer of
            transformers. It is copied, and neither truncates nor pads here.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if a file is named and tokenizers is not installed.
        ValueError: if the file is damaged, or the object has no such tokenizer in it.
    """

    def __init__(self, source: Any) -> None:
        self._tokenizer = _copied(source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        """Entries of the vocabulary, added tokens too."""

    @property
    def json(self) -> str:
        """The content of its `tokenizer.json`."""
        text: str = self._tokenizer.to_str()
        return text

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of `json`."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The tokens of each text, with the special tokens that the tokenizer adds."""
        return [
            np.array(found.ids, np.int64) for found in self._tokenizer.encode_batch(list(texts))
        ]

    def decode(self, tokens: NDArray[Any]) -> str:
        """The text of tokens, special ones shown."""
        text: str = self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        return text


def _copied(source: Any) -> Any:
    """A `tokenizers.Tokenizer` that nobody else holds."""
    if isinstance(source, str | PathLike):
        return _of_file(Path(source))
    inner = getattr(source, "backend_tokenizer", source)
    if not hasattr(inner, "encode_batch") or not hasattr(inner, "to_str"):
        raise ValueError(
            f"a {type(source).__name__} is no tokenizer that can be read here: give a tokenizer.json, a "
            "tokenizers.Tokenizer, or a fast tokenizer of transformers"
        )
    return type(inner).from_str(inner.to_str())


def _of_file(path: Path) -> Any:
    try:
        import tokenizers  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "texts need a tokenizer: pip install 'data-efficiency[text]'"
        ) from error
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a tokenizer is a {TOKENIZER_FILE}")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # The Rust code raises nothing more exact.
        raise ValueError(f"{file} is no tokenizer.json ({error})") from None
