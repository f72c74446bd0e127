"""Proof that a corpus on disk is what preprocessing made of its input."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency.files import result_folder
from data_efficiency.files.indexed_dataset import path_of, readable_path
from data_efficiency.progress import Progress
from megatron.corpus.preprocessing import EncodedTexts, encode_documents, is_empty
from megatron.corpus.sentence_splitter import SentenceSplitter
from megatron.corpus.text_sources import SourceFile, read_blocks, texts_of
from megatron.data.indexed_dataset import IndexedDataset
from megatron.tokenizer import Tokenizer

NUM_SAMPLED_DOCUMENTS = 256


def verify_corpus(
    prefix: str | os.PathLike[str],
    sources: Sequence[SourceFile],
    tokenizer: Tokenizer,
    splitter: SentenceSplitter | None = None,
    num_sampled_documents: int = NUM_SAMPLED_DOCUMENTS,
) -> int:
    """Number of documents tokenized again and found equal, after all other checks passed.

    Checked are: the checksums of the sidecar, all offsets, the document index, all token ids, the
    tokenizer, the model of sentences, the number of documents in the input, and a fixed random choice
    of documents.

    Raises:
        ValueError: naming the first thing that is wrong.
        FileNotFoundError: if a file of the corpus or the sidecar is missing.
    """
    corpus = IndexedDataset(prefix)
    metadata = corpus.metadata
    if metadata is None:
        raise FileNotFoundError(f"{path_of(prefix, 'meta.json')}: no such file; nothing to verify")
    for ending in ("bin", "idx"):
        path = readable_path(prefix, ending)
        if result_folder.sha256_of_file(path) != metadata[f"{ending}_sha256"]:
            raise ValueError(f"{path}: the checksum differs from the sidecar's; remake the corpus")
    corpus.verify(metadata["vocab_size"])
    if metadata["tokenizer_fingerprint"] != tokenizer.fingerprint:
        raise ValueError(f"{prefix}: made with another tokenizer than the one given")
    if metadata.get("sentence_model") != (splitter and splitter.fingerprint):
        raise ValueError(f"{prefix}: not split into sentences as is asked for now")
    chosen = np.random.default_rng(corpus.num_documents).choice(
        corpus.num_documents, min(num_sampled_documents, corpus.num_documents), replace=False
    )
    wanted, number = set(chosen.tolist()), -1
    eod = metadata["eod"]
    for number, where, text in _documents(sources, metadata, tokenizer):
        if number >= corpus.num_documents:
            raise ValueError(f"{prefix}: {corpus.num_documents} documents, but the input has more")
        if number in wanted:
            _check_document(
                corpus, number, where, encode_documents(tokenizer, [text], eod, splitter)
            )
            wanted.remove(number)
    if wanted or number + 1 != corpus.num_documents:
        raise ValueError(
            f"{prefix}: {corpus.num_documents} documents, but the input has only {number + 1}"
        )
    return len(chosen)


def _documents(
    sources: Sequence[SourceFile], metadata: dict[str, Any], tokenizer: Tokenizer
) -> Iterator[tuple[int, Path, str]]:
    """(number in the corpus, file, text) of each document of the input that is not left out."""
    number = 0
    with Progress("verifying", sum(source.num_bytes for source in sources)) as progress:
        for block in read_blocks(sources, [metadata["json_key"]]):
            for (text,) in texts_of(block, [metadata["json_key"]]):
                # Only tokenizing tells a tokenless document, so it is done where there are some.
                left_out = is_empty(text) or (
                    metadata["num_tokenless_documents"] and not tokenizer.encode(text)
                )
                if not left_out:
                    yield number, block.path, text
                    number += 1
            progress.update(block.num_bytes_done)


def _check_document(
    corpus: IndexedDataset, number: int, where: Path, expected: EncodedTexts
) -> None:
    first, last = corpus.document_index[number : number + 2].tolist()
    begin, end = corpus.offsets_of(np.array([first, last]))
    if not np.array_equal(corpus.sequence_lengths[first:last], expected.lengths) or (
        not np.array_equal(corpus.tokens[begin:end], expected.tokens)
    ):
        raise ValueError(
            f"{corpus.prefix}: document {number} is not what {where} gives; the input has changed"
            " or the corpus is damaged"
        )
