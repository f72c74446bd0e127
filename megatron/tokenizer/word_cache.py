"""Byte-level BPE that looks each word up and lets the library encode only the words it has not seen.

GPT-2's pattern cuts a text into words that are encoded one by one, and a few words make up most of any
text. Cutting and looking up costs a quarter of encoding.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain

import tokenizers

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
# About 60 MB; the words that follow are mostly new at any size.
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


class WordCache:
    """Encoder of texts that remembers the token ids of up to `MAX_WORDS` words.

    Args:
        backend: a tokenizer of which `cuts_as_gpt2` is true, set to encode control tokens as text.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._ids_of_word: dict[str, list[int]] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, the same that the library gives."""
        words_of_text = [_WORDS.findall(text) for text in texts]
        known = self._ids_of_word
        new = [word for word in set(chain.from_iterable(words_of_text)) if word not in known]
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        known.update(zip(new, (encoding.ids for encoding in encodings), strict=True))
        result = [
            list(chain.from_iterable(map(known.__getitem__, words))) for words in words_of_text
        ]
        if len(known) > MAX_WORDS:
            known.clear()
        for word in new:
            if len(word) > _MAX_WORD_CHARACTERS:
                known.pop(word, None)
        return result
