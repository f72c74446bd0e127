"""Joins token corpora into one, in memory that does not grow with them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_efficiency import files
from data_efficiency.files.indexed_dataset import path_of, readable_path
from data_efficiency.progress import Progress
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.indexed_dataset_writer import (
    ENDINGS,
    IndexedDatasetWriter,
)

_RUN_BYTES = 8 * 1024 * 1024
_RUN_DOCUMENTS = 64 * 1024
# The writer counts and sums up anew.
_FACTS_OF_FILES = {
    "dtype",
    "num_documents",
    "num_sequences",
    "num_tokens",
    "bin_sha256",
    "idx_sha256",
}
# What adds up, with what stands for none. All else must be the same in all corpora.
_ADDED_FACTS: dict[str, Any] = {
    "sources": [],
    "num_empty_documents": 0,
    "num_tokenless_documents": 0,
}

StrPath = str | os.PathLike[str]


def find_corpora(inputs: Sequence[StrPath]) -> list[str]:
    """Prefixes of corpora, each once, in the order of the result.

    Args:
        inputs: prefixes, and folders, of which each corpus is taken, by name; not of folders below.

    Raises:
        FileNotFoundError: if a folder holds no corpus.
        ValueError: if a corpus comes twice.
    """
    prefixes: dict[Path, str] = {}
    for path in map(Path, inputs):
        found = [os.fspath(path)]
        if path.is_dir():
            indexes = {file.name for end in ("*.idx", "*.idx.new") for file in path.glob(end)}
            names = {name.removesuffix(".new").removesuffix(".idx") for name in indexes}
            found = [os.fspath(path / name) for name in sorted(names) if name[0] != "."]
        if not found:
            raise FileNotFoundError(f"{path}: no corpus (PREFIX.bin and PREFIX.idx) in this folder")
        for prefix in found:
            if prefixes.setdefault(Path(prefix).resolve(), prefix) is not prefix:
                raise ValueError(f"{prefix}: given twice among the corpora")
    return list(prefixes.values())


def merge_corpora(
    prefixes: Sequence[StrPath],
    output_prefix: StrPath,
    *,
    overwrite: bool = False,
    with_metadata: bool = True,
) -> IndexedDataset:
    """The new corpus: all documents of the others, in the order given.

    The files equal those that preprocessing makes of all the input at once, and appear whole or not
    at all.

    Args:
        with_metadata: whether the sidecars are compared and joined. Without, corpora of unknown
            origin can be merged, and the result has no sidecar.

    Raises:
        ValueError: if there is no corpus, one is damaged, or they differ in dtype, tokenizer or
            anything else that the sidecars say of their content.
        FileNotFoundError: if a file is missing.
        FileExistsError: if the new corpus exists and may not be replaced.
        OSError: if something cannot be read or written.
    """
    parts = [IndexedDataset(prefix) for prefix in prefixes]
    if not parts:
        raise ValueError("no corpus to merge was given")
    _check_target(parts, output_prefix, overwrite)
    for part in parts:
        if part.dtype != parts[0].dtype:
            raise ValueError(
                f"{part.prefix}.idx: {part.dtype.name} tokens cannot join the {parts[0].dtype.name}"
                f" tokens of {parts[0].prefix}; preprocess all parts with the same tokenizer"
            )
    metadata = _joined_metadata(parts) if with_metadata else None
    num_bytes = sum(part.tokens.nbytes for part in parts)
    with (
        IndexedDatasetWriter(output_prefix, parts[0].dtype) as writer,
        Progress("merging", num_bytes) as progress,
    ):
        for part in parts:
            part.verify()
            for _ in _copy(part, writer):
                progress.update(writer.num_tokens * writer.dtype.itemsize)
        writer.finish(metadata)
    return IndexedDataset(output_prefix)


def _check_target(parts: Sequence[IndexedDataset], prefix: StrPath, overwrite: bool) -> None:
    files.refuse_writing_over(
        [path_of(prefix, ending) for ending in ENDINGS],
        [path_of(part.prefix, ending) for part in parts for ending in ENDINGS],
    )
    index = readable_path(prefix, "idx")
    if index.exists() and not overwrite:
        raise FileExistsError(f"{index}: exists; give --overwrite to replace it")


def _joined_metadata(parts: Sequence[IndexedDataset]) -> dict[str, Any]:
    """The sidecar that preprocessing would give all the input at once."""
    first, joined = parts[0], dict[str, Any]()
    for part in parts:
        facts = part.metadata
        if facts is None:
            raise ValueError(
                f"{path_of(part.prefix, 'meta.json')}: no such file, so the tokenizer of this corpus"
                " is unknown; give --without-metadata if it is known to be that of the others"
            )
        facts = {name: fact for name, fact in facts.items() if name not in _FACTS_OF_FILES}
        if part is first:
            joined = facts
            continue
        for name in sorted(joined.keys() | facts.keys()):
            if name in _ADDED_FACTS:
                none = _ADDED_FACTS[name]
                joined[name] = joined.get(name, none) + facts.get(name, none)
            elif joined.get(name) != facts.get(name):
                raise ValueError(
                    f"{part.prefix}: {name} is {facts.get(name)!r}, but {joined.get(name)!r} in"
                    f" {first.prefix}; only corpora made alike, with one tokenizer, can be merged"
                )
    return joined


def _copy(part: IndexedDataset, writer: IndexedDatasetWriter) -> Iterator[None]:
    """Yield after each run of documents that was copied; the tokens are checked as they pass."""
    path, digest = readable_path(part.prefix, "bin"), hashlib.sha256()
    # Read, not mapped: pages of a map would count as this process's memory.
    with path.open("rb") as file:
        for first, end in _document_runs(part):
            bounds = part.document_index[first : end + 1]
            lengths = part.sequence_lengths[bounds[0] : bounds[-1]]
            tokens = np.fromfile(file, part.dtype, int(lengths.sum(dtype=np.int64)))
            digest.update(tokens.data)
            writer.add_documents(tokens, lengths, np.diff(bounds))
            yield
    expected = (part.metadata or {}).get("bin_sha256")
    if expected not in (None, digest.hexdigest()):
        raise ValueError(f"{path}: the checksum differs from the sidecar's; remake the corpus")


def _document_runs(part: IndexedDataset) -> Iterator[tuple[int, int]]:
    """(first, one past the last) of runs of documents of about `_RUN_BYTES`, or one larger document."""
    first = 0
    while first < part.num_documents:
        bounds = part.document_index[first : first + _RUN_DOCUMENTS + 1]
        num_bytes = np.full(len(bounds), part.tokens.nbytes)
        inside = bounds < len(part)
        num_bytes[inside] = part.byte_offsets[bounds[inside]]
        fitting = int(np.searchsorted(num_bytes, num_bytes[0] + _RUN_BYTES, side="right")) - 1
        end = first + max(fitting, 1)
        yield first, end
        first = end
