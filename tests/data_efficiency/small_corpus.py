"""Small corpora, made by nothing but the description of the formats."""

from pathlib import Path

import numpy as np

from data_efficiency.files import mmididx


def write_corpus(prefix: Path, documents: list[list[int]]) -> None:
    """A Megatron corpus of uint16 tokens, a sequence a document."""
    tokens = np.concatenate([np.array(document, "<u2") for document in documents])
    prefix.with_suffix(".bin").write_bytes(tokens.tobytes())
    writer = mmididx.IndexWriter(prefix.with_suffix(".idx"), mmididx.MEGATRON_CODES["uint16"], 2)
    writer.add([len(document) for document in documents], [1] * len(documents))
    writer.finish()
    writer.close()


def word_tokenizer(words: list[str]) -> str:
    """The text of a tokenizer.json: a word a token, [UNK] for all others, numbered as they come."""
    import tokenizers  # noqa: PLC0415 - an extra

    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer.to_str()
