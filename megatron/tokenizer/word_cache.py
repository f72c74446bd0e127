"""Byte-level BPE that looks each word up and lets the library encode only the words it has not seen.

GPT-2's pattern cuts a text into words that are encoded one by one, and a few words make up most of any
text. Cutting and looking up costs a sixth of encoding.
"""

import json
import re
from array import array
from collections.abc import Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

# Unicode's white space, which is what "\s" means to the tokenizers library; to Python it is more.
_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_PUNCTUATION = r"\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f"
# What letters and digits are beyond ASCII depends on the version of Unicode, so the library decides: a
# word with anything else in it reaches to the next space and is cut further where it is encoded.
_NO_MORE = r"(?![^\x00-\x7f])"
_WORDS = re.compile(
    "'(?:[stmd]|re|ve|ll)"
    rf"| ?[A-Za-z]++{_NO_MORE}| ?[0-9]++{_NO_MORE}| ?[{_PUNCTUATION}]++{_NO_MORE}"
    rf"| ?[^{_SPACE}]+"
    rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
)
# About 50 MB; the words that follow are mostly new at any size.
MAX_WORDS = 2**18
# Longer ones hardly come again.
_MAX_WORD_CHARACTERS = 48
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def cuts_as_gpt2(backend: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer encodes the words of GPT-2's pattern each by itself."""
    content = json.loads(backend.to_str())
    cut = content["pre_tokenizer"] or {}
    return (
        content["model"]["type"] == "BPE"
        and not content["model"]["dropout"]
        and content["normalizer"] is None
        and {name: cut.get(name) for name in _BYTE_LEVEL} == _BYTE_LEVEL
        # Others are looked for in the whole text, across words.
        and all(token["special"] for token in content["added_tokens"])
    )


class WordCache(dict[str, bytes]):
    """Token ids, int32, of about `MAX_WORDS` words; a word that is missing is encoded.

    Args:
        backend: a tokenizer of which `cuts_as_gpt2` is true, set to encode control tokens as text.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, the same that the library gives."""
        encode = self.__getitem__
        rows = [
            np.frombuffer(b"".join(map(encode, _WORDS.findall(text))), np.int32) for text in texts
        ]
        if len(self) > MAX_WORDS:
            self.clear()
        return rows

    def __missing__(self, word: str) -> bytes:
        ids = array("i", self._backend.encode(word, add_special_tokens=False).ids).tobytes()
        if len(word) <= _MAX_WORD_CHARACTERS:
            self[word] = ids
        return ids
