"""Text to token corpora: parallel, streaming, and the same bytes whatever the number of workers.

One reader cuts the input into blocks, worker processes parse and tokenize them, one writer puts the
results in order into the corpora of all keys.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data_efficiency import files
from data_efficiency.files.indexed_dataset import path_of, readable_path
from data_efficiency.progress import Progress
from megatron.corpus.parquet_rows import check_columns
from megatron.corpus.sentence_splitter import SentenceSplitter
from megatron.corpus.text_sources import Block, SourceFile, read_blocks, texts_of
from megatron.data.indexed_dataset_writer import (
    ENDINGS,
    IndexedDatasetWriter,
    dtype_for_vocabulary,
)
from megatron.tokenizer import Tokenizer

# Blocks under way for each worker: enough to keep it busy, few enough to bound memory.
_BLOCKS_PER_WORKER = 4


@dataclass(frozen=True, kw_only=True)
class PreprocessingJob:
    """What becomes of which files.

    Attributes:
        sources: input files, in the order of the corpus.
        json_keys: keys of the records; each gets a corpus of its own.
        output_prefix: corpora are named `{output_prefix}_{key}_document`, or `..._sentence`.
        tokenizer_factory: makes the tokenizer, once in each process, so it must be a module's
            function or a `functools.partial` of one.
        append_eod: whether the end-of-document token closes each document.
        splitter_factory: as `tokenizer_factory`; with it the sequences of the corpora are sentences,
            without it whole documents.
        num_workers: worker processes.
        overwrite: whether existing corpora may be replaced.
        inputs: other files and folders that are read.
    """

    sources: Sequence[SourceFile]
    json_keys: Sequence[str]
    output_prefix: str
    tokenizer_factory: Callable[[], Tokenizer]
    append_eod: bool
    num_workers: int
    splitter_factory: Callable[[], SentenceSplitter] | None = None
    overwrite: bool = False
    inputs: Sequence[str | os.PathLike[str] | None] = ()

    def corpus_prefix(self, key: str) -> str:
        """Prefix of the corpus of one key."""
        level = "document" if self.splitter_factory is None else "sentence"
        return f"{self.output_prefix}_{key}_{level}"

    def check(self) -> None:
        """Raise an error unless the job can start.

        Raises:
            FileExistsError: if a corpus exists and may not be replaced.
            ValueError: if a field is wrong or a Parquet file lacks a column.
            ModuleNotFoundError: if pyarrow is needed and not installed.
        """
        if self.num_workers < 1:
            raise ValueError(f"--workers is {self.num_workers}: must be at least 1")
        if len(set(self.json_keys)) != len(self.json_keys) or not self.json_keys:
            raise ValueError(f"--json-keys is {list(self.json_keys)}: give distinct keys")
        if self.append_eod and self.splitter_factory is not None:
            raise ValueError(
                "--append-eod and --split-sentences exclude each other: a BERT sample stays inside one"
                " document"
            )
        for key in self.json_keys:
            if "/" in key:
                raise ValueError(f"--json-keys has {key!r}: a key names files, so no '/' in it")
            prefix = self.corpus_prefix(key)
            files.refuse_writing_over(
                [path_of(prefix, ending) for ending in ENDINGS],
                [*self.inputs, *(source.path for source in self.sources)],
            )
            index = readable_path(prefix, "idx")
            if index.exists() and not self.overwrite:
                raise FileExistsError(f"{index}: exists; give --overwrite to replace it")
        texts = [source.path for source in self.sources if source.is_text]
        if texts and len(self.json_keys) > 1:
            raise ValueError(f"{texts[0]}: a text file has no keys, so give a single --json-keys")
        for source in self.sources:
            if source.is_table:
                check_columns(source.path, self.json_keys)


@dataclass
class CorpusCounts:
    """Documents and tokens of one key, as far as they are written."""

    num_documents: int = 0
    num_sequences: int = 0
    """Sentences, where documents are split into them; else documents."""
    num_tokens: int = 0
    num_empty_documents: int = 0
    """Documents of nothing but white space, left out."""
    num_tokenless_documents: int = 0
    """Other documents that the tokenizer made no token of, left out."""


@dataclass(frozen=True)
class EncodedTexts:
    """Tokens of one key of one block, back to back."""

    tokens: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    """Tokens of each sequence."""
    sequences_per_document: npt.NDArray[np.int64]
    counts: CorpusCounts = field(default_factory=CorpusCounts)


def is_empty(text: str) -> bool:
    """Whether a document is left out as empty: nothing but white space."""
    return not text or text.isspace()


def encode_documents(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    eod: int | None,
    splitter: SentenceSplitter | None = None,
) -> EncodedTexts:
    """Tokens of the documents that are not empty.

    Args:
        eod: closes each document, where one is given.
        splitter: makes the sentences of a document its sequences; without it a document is one.
    """
    present = [text for text in texts if not is_empty(text)]
    parts = [[text] if splitter is None else splitter.split(text) for text in present]
    ids = tokenizer.encode_batch([part for own in parts for part in own])
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    dtype = dtype_for_vocabulary(tokenizer.vocab_size)
    tokens = np.concatenate([np.empty(0, dtype), *ids], dtype=dtype, casting="unsafe")
    document = np.repeat(np.arange(len(parts)), [len(own) for own in parts])
    num_sequences = np.bincount(document[lengths > 0], minlength=len(parts))
    lengths, num_sequences = lengths[lengths > 0], num_sequences[num_sequences > 0]
    if eod is not None:
        tokens = np.insert(tokens, np.cumsum(lengths), eod)
        lengths = lengths + 1
    counts = CorpusCounts(
        num_documents=len(num_sequences),
        num_sequences=len(lengths),
        num_tokens=len(tokens),
        num_empty_documents=len(texts) - len(present),
        num_tokenless_documents=len(present) - len(num_sequences),
    )
    return EncodedTexts(tokens, lengths, num_sequences, counts)


class _Worker:
    """State of a worker process, set once by `start`."""

    tokenizer: Tokenizer
    keys: Sequence[str]
    eod: int | None
    splitter: SentenceSplitter | None

    @classmethod
    def start(cls, job: PreprocessingJob, eod: int | None) -> None:
        # Each worker is one core's worth; threads of its own would only get in the others' way.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        # Signals may reach the whole group; the parent ends its workers itself.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=cls._leave_with_parent, daemon=True).start()
        cls.tokenizer, cls.keys, cls.eod = job.tokenizer_factory(), job.json_keys, eod
        cls.splitter = None if job.splitter_factory is None else job.splitter_factory()

    @staticmethod
    def _leave_with_parent() -> None:
        """Ends the process when the parent is gone, even if it was killed outright."""
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    @classmethod
    def encode(cls, block: Block) -> list[EncodedTexts]:
        records = texts_of(block, cls.keys)
        return [
            encode_documents(
                cls.tokenizer, [texts[place] for texts in records], cls.eod, cls.splitter
            )
            for place in range(len(cls.keys))
        ]


def preprocess(job: PreprocessingJob) -> dict[str, CorpusCounts]:
    """Writes the corpora of all keys and gives back their counts; each appears complete or not at all.

    Raises:
        ValueError: if the input or the job is wrong, with file and line where there is one.
        OSError: if something cannot be read or written, or a worker died.
    """
    job.check()
    tokenizer = job.tokenizer_factory()
    eod = tokenizer.eod if job.append_eod else None
    facts = _facts(job, tokenizer, eod)
    counts = {key: CorpusCounts() for key in job.json_keys}
    dtype = dtype_for_vocabulary(tokenizer.vocab_size)
    num_bytes = sum(source.num_bytes for source in job.sources)
    with ExitStack() as stack:
        writers = {
            key: stack.enter_context(IndexedDatasetWriter(job.corpus_prefix(key), dtype))
            for key in job.json_keys
        }
        progress = stack.enter_context(Progress("tokenizing", num_bytes))
        for num_bytes_done, encoded in stack.enter_context(closing(_encoded_blocks(job, eod))):
            for key, texts in zip(job.json_keys, encoded, strict=True):
                writers[key].add_documents(
                    texts.tokens, texts.lengths, texts.sequences_per_document
                )
                _add(counts[key], texts.counts)
            num_tokens = sum(count.num_tokens for count in counts.values())
            progress.update(num_bytes_done, f"{num_tokens:,} tokens")
        for key in job.json_keys:
            if not counts[key].num_documents:
                raise ValueError(f"no document with any text under {key!r} in the input")
        for key in job.json_keys:
            names = ("num_empty_documents", "num_tokenless_documents")
            own = {name: getattr(counts[key], name) for name in names}
            writers[key].finish({**facts, "json_key": key, **own})
    return counts


def _add(total: CorpusCounts, part: CorpusCounts) -> None:
    for name, value in vars(part).items():
        setattr(total, name, getattr(total, name) + value)


def _facts(job: PreprocessingJob, tokenizer: Tokenizer, eod: int | None) -> dict[str, Any]:
    """What the sidecars of all keys say."""
    facts = {
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eod": eod,
        "sources": [
            {"path": str(source.path), "num_bytes": source.num_bytes} for source in job.sources
        ],
    }
    if job.splitter_factory is not None:
        # All that BERT's dataset needs to know.
        facts["control_tokens"] = tokenizer.control_tokens
        facts["sentence_model"] = job.splitter_factory().fingerprint
    return facts


def _encoded_blocks(
    job: PreprocessingJob, eod: int | None
) -> Generator[tuple[int, list[EncodedTexts]]]:
    """(bytes of input done, tokens of each key) of each block, in the order of the input."""
    # A fresh interpreter for each worker: forking a process whose tokenizer has threads may hang. What
    # it is given at its start must be small: Python waits for ever to hand much to one that died.
    executor = ProcessPoolExecutor(
        job.num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_Worker.start,
        initargs=(replace(job, sources=()), eod),
    )
    waiting: deque[tuple[int, Future[list[EncodedTexts]]]] = deque()
    try:
        for block in read_blocks(job.sources, job.json_keys):
            waiting.append((block.num_bytes_done, executor.submit(_Worker.encode, block)))
            if len(waiting) >= _BLOCKS_PER_WORKER * job.num_workers:
                num_bytes_done, future = waiting.popleft()
                yield num_bytes_done, future.result()
        for num_bytes_done, future in waiting:
            yield num_bytes_done, future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process died (killed, or out of memory); try fewer --workers"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)
