"""Samples for BERT: [CLS] first segment [SEP] second segment [SEP], then padding; some tokens masked.

The corpus holds sentences as its sequences, grouped into documents. A sample's number is its place in
the corpus; its text is a function of (corpus, settings, number) alone (`sentence_pairs.py`), and its
masks of the visit as well (`token_masking.py`). Analysis reads the text without masks and padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_efficiency import files, hashing
from data_efficiency.analysis.token_windows import EmptySplitError, split_boundaries
from megatron.config import DataConfig
from megatron.data.indexed_dataset import IndexedDataset
from megatron.data.row_dataset import RowDataset
from megatron.data.sentence_pairs import Segments, SentencePairs
from megatron.data.token_masking import mask_tokens
from megatron.tokenizer import Tokenizer

Int64Array = NDArray[np.int64]

NUM_CONTROL_TOKENS = 3
"""[CLS] and two [SEP] in each sample."""
CONTROL_TOKENS = ("cls", "sep", "pad", "mask")


@dataclass(frozen=True, kw_only=True)
class BertSettings:
    """How samples are made of a corpus; a difficulty index depends on the first three."""

    sequence_length: int
    """Positions of a sample, control tokens and padding included, >= 5."""
    seed: int = 1234
    """Which sentences form a sample. Keep it where runs of several seeds share a difficulty index."""
    short_seq_prob: float = 0.1
    """Probability of a sample with a shorter target length."""
    mask_prob: float = 0.15
    """Share of a sample's tokens to be guessed."""
    mask_seed: int | None = None
    """Which tokens are masked. None: as `seed`."""

    def __post_init__(self) -> None:
        if self.sequence_length < NUM_CONTROL_TOKENS + 2:
            raise ValueError(
                f"--seq-length is {self.sequence_length}: BERT needs at least "
                f"{NUM_CONTROL_TOKENS + 2}, for [CLS], two [SEP] and a token of each segment"
            )
        for name in ("short_seq_prob", "mask_prob"):
            if not 0 <= getattr(self, name) <= 1:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {getattr(self, name)}: must be from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class BertVocabulary:
    """What the dataset must know of the tokenizer."""

    cls: int
    sep: int
    pad: int
    mask: int
    size: int
    """Entries of the vocabulary."""
    continuations: NDArray[np.bool_] | None = field(default=None, compare=False)
    """For each token whether it continues a word, bool [size]. If given, words are masked whole."""

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer, *, whole_words: bool = False) -> Self:
        """What a tokenizer says.

        Raises:
            ValueError: if it lacks a control token, or words are to be masked whole and it does not
                tell which tokens continue one.
        """
        return cls(
            **tokenizer.control_tokens,
            size=tokenizer.vocab_size,
            continuations=tokenizer.continuations if whole_words else None,
        )

    @classmethod
    def of_corpus(cls, corpus: IndexedDataset) -> Self:
        """What the sidecar of a corpus says.

        Raises:
            ValueError: if it does not say it.
        """
        metadata = corpus.metadata or {}
        ids = metadata.get("control_tokens")
        if ids is None or "vocab_size" not in metadata:
            raise ValueError(
                f"{corpus.prefix}.meta.json does not tell the ids of [CLS], [SEP], [PAD] and [MASK]: "
                "give the tokenizer the corpus was made with"
            )
        with files.reading(f"{corpus.prefix}.meta.json"):
            return cls(**ids, size=metadata["vocab_size"])


class BertDataset(RowDataset):
    """The samples of one split of a corpus of sentences.

    Args:
        prefix: path of the corpus without `.bin` and `.idx`.
        split_name: "train", "valid" or "test".
        vocabulary: of the tokenizer; None: what the corpus's sidecar says.

    Attributes:
        num_skipped_documents: documents of the split with fewer than two sentences, not used.

    Raises:
        FileNotFoundError: if the corpus is missing.
        EmptySplitError: if no document of the split has two sentences.
        ValueError: if the corpus is damaged, or the vocabulary is not known.
    """

    def __init__(
        self,
        prefix: str,
        settings: BertSettings,
        *,
        split_name: str = "train",
        split: str = DataConfig.split,
        vocabulary: BertVocabulary | None = None,
    ) -> None:
        corpus = IndexedDataset(prefix)
        # Before anything of the index is used.
        content_hash = corpus.content_hash()
        self.settings = settings
        self.sequence_length = settings.sequence_length
        self._corpus = corpus
        self._vocabulary = vocabulary or BertVocabulary.of_corpus(corpus)
        self.vocab_size: int | None = self._vocabulary.size
        self.documents = range(*split_boundaries(split, corpus.num_documents)[split_name])
        """Which documents of the corpus the split holds."""
        self.num_corpus_documents = corpus.num_documents
        self._pairs = SentencePairs(
            corpus,
            self.documents,
            max_tokens=settings.sequence_length - NUM_CONTROL_TOKENS,
            seed=settings.seed,
            short_seq_prob=settings.short_seq_prob,
        )
        self.num_skipped_documents = self._pairs.num_skipped_documents
        if len(self._pairs) == 0:
            raise EmptySplitError(
                f"the {split_name} split of {prefix} has {len(self.documents)} documents, none with "
                "two sentences; make the corpus with tools/preprocess_data.py --split-sentences, or "
                f"use more text or another --split (now {split})"
            )
        self.identity: Mapping[str, Any] = {
            "type": "BertDataset",
            "corpus": content_hash,
            "num_tokens": corpus.num_tokens,
            "tokenizer": (corpus.metadata or {}).get("tokenizer_fingerprint"),
            "control_tokens": {name: getattr(self._vocabulary, name) for name in CONTROL_TOKENS},
            "split": split,
            "split_name": split_name,
            "sequence_length": settings.sequence_length,
            "seed": settings.seed,
            "short_seq_prob": settings.short_seq_prob,
            "num_samples": len(self._pairs),
        }
        """What the difficulty index and the checkpoint must agree on."""

    def __len__(self) -> int:
        return len(self._pairs)

    def get_batch(
        self, samples: Int64Array, visits: Int64Array | None = None
    ) -> dict[str, Int64Array]:
        """Some samples as the model takes them, all int64.

        Args:
            samples: int64 [batch], sample numbers.
            visits: int64 [batch], how often each was visited before; None: never. Masks depend on it.

        Returns:
            `tokens`, with masks, `token_types` (0 for the first segment with its control tokens, 1
            for the second), `padding_mask` (1 where no padding is) and `labels` (the original token
            where there is something to guess, -100 elsewhere), [batch, sequence_length] each;
            `sentence_labels` [batch], 1 where the segments are swapped, 0 where in order.
        """
        samples = np.asarray(samples, np.int64)
        visits = np.zeros_like(samples) if visits is None else np.asarray(visits, np.int64)
        settings, vocabulary = self.settings, self._vocabulary
        segments = self._pairs.segments(samples)
        columns = Segments._make(part[:, None] for part in segments)
        positions = np.arange(settings.sequence_length)
        text, is_text = self._text(positions, columns)
        length = columns.first_length + columns.second_length + NUM_CONTROL_TOKENS
        is_real = positions < length
        seed = settings.seed if settings.mask_seed is None else settings.mask_seed
        tokens, labels = mask_tokens(
            text,
            is_text,
            hashing.hash_numbers(seed, samples, visits),
            mask_prob=settings.mask_prob,
            mask_token=vocabulary.mask,
            vocab_size=vocabulary.size,
            continuations=vocabulary.continuations,
        )
        return {
            "tokens": np.where(is_real, tokens, vocabulary.pad),
            "token_types": (is_real & (positions > columns.first_length + 1)).astype(np.int64),
            "padding_mask": is_real.astype(np.int64),
            "labels": labels,
            "sentence_labels": segments.is_swapped.astype(np.int64),
        }

    def token_spans(self, first: int, last: int) -> tuple[NDArray[Any], Int64Array, Int64Array]:
        """Samples first..last-1 back to back, without masks and padding, for analysis.

        Returns:
            The tokens of all of them with [CLS] and [SEP] (a copy, int64), where each sample starts in
            it (int64 [last - first]) and how long each is (int64 [last - first]).
        """
        segments = self._pairs.segments(np.arange(first, last))
        lengths = segments.first_length + segments.second_length + NUM_CONTROL_TOKENS
        starts = np.cumsum(lengths) - lengths
        positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        tokens, _ = self._text(
            positions, Segments._make(np.repeat(part, lengths) for part in segments)
        )
        return tokens, starts, lengths

    def sample_documents(self) -> Int64Array:
        """Number in the corpus of the document that each sample is from, int64 [samples]."""
        first, _ = self._pairs.sentences(np.arange(len(self)))
        edges = np.array(self._corpus.document_index)
        return np.searchsorted(edges, first, side="right").astype(np.int64) - 1

    def _text(
        self, positions: Int64Array, segments: Segments
    ) -> tuple[Int64Array, NDArray[np.bool_]]:
        """Tokens at some positions of samples, and whether they come from the corpus.

        Args:
            positions: int64, of a sample; beyond its end comes [SEP].
            segments: of the samples, in a shape that broadcasts with the positions.
        """
        after_first = segments.first_length + 1
        in_first = (positions > 0) & (positions < after_first)
        in_second = (positions > after_first) & (positions <= after_first + segments.second_length)
        is_text = in_first | in_second
        shift = np.where(
            in_first, segments.first_start - 1, segments.second_start - after_first - 1
        )
        from_corpus = self._corpus.tokens[np.where(is_text, shift + positions, 0)]
        control = np.where(positions == 0, self._vocabulary.cls, self._vocabulary.sep)
        return np.where(is_text, from_corpus, control).astype(np.int64, copy=False), is_text
