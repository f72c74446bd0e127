"""How hard a sample is to read: Flesch's reading ease, turned round, from tokens alone.

Each token's text is looked at once. Words, syllables and sentences are runs of letters, of vowels and of full stops;
a run that goes on in the next token is counted there where it began. So a sample's counts are those of its text, by
sums over tables.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_efficiency.analysis.metrics import Metric, TokenBatch

RUNS = {
    "words": r"[^\W\d_]+",
    "syllables": r"[aeiouyàáâãäåæèéêëìíîïòóôõöøùúûü]+",
    "sentences": r"[.!?]+",
}
_CONTINUES = "##"


class TokenRuns(NamedTuple):
    """The runs of one kind in each token of a vocabulary."""

    later: np.ndarray
    """int32 [vocabulary]: runs that begin behind the token's first character."""
    begins: np.ndarray
    """bool [vocabulary]: whether the first character belongs to a run."""
    ends: np.ndarray
    """bool [vocabulary]: whether the last one does."""


def texts_of_tokens(decode: Callable[[np.ndarray], str], vocab_size: int) -> list[str]:
    """The text of each token; those of WordPiece with the space in front that its words have.

    Args:
        decode: tokens, int64 [n] -> their text.
    """
    texts = [decode(np.array([token])) for token in range(vocab_size)]
    if any(text.startswith(" ") for text in texts):
        return texts
    if not any(text.startswith(_CONTINUES) for text in texts):
        return texts
    return [
        text.removeprefix(_CONTINUES) if text.startswith(_CONTINUES) else f" {text}"
        for text in texts
    ]


def runs_of_tokens(texts: Sequence[str], pattern: str) -> TokenRuns:
    """Where runs of a kind lie in each token.

    Example:
        >>> runs = runs_of_tokens([" a", "b c"], r"[a-z]+")
        >>> runs.later.tolist(), runs.begins.tolist(), runs.ends.tolist()
        ([1, 1], [False, True], [True, True])
    """
    spans = [[found.span() for found in re.finditer(pattern, text.lower())] for text in texts]
    return TokenRuns(
        later=np.array([sum(first > 0 for first, _ in some) for some in spans], np.int32),
        begins=np.array([bool(some) and some[0][0] == 0 for some in spans]),
        ends=np.array(
            [
                bool(some) and some[-1][1] == len(text)
                for some, text in zip(spans, texts, strict=True)
            ]
        ),
    )


def count_runs(batch: TokenBatch, runs: TokenRuns) -> np.ndarray:
    """Runs in each sample's text, int64 [B]."""
    tokens = batch.tokens
    goes_on = np.append(False, runs.ends[tokens[:-1]]) if tokens.size else np.zeros(0, bool)
    begins = runs.begins[tokens]
    before = np.append(0, np.cumsum(runs.later[tokens] + (begins & ~goes_on)))
    counts = before[batch.starts + batch.lengths] - before[batch.starts]
    # What a sample begins with does not go on from what stands before it in the corpus.
    first = batch.starts[batch.lengths > 0]
    counts[batch.lengths > 0] += begins[first] & goes_on[first]
    return counts


class FleschDifficulty:
    """From a batch to how hard its samples are to read."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._runs = {name: runs_of_tokens(texts, pattern) for name, pattern in RUNS.items()}
        self._size = len(texts)

    def __call__(self, batch: TokenBatch) -> np.ndarray:
        """Float64 [B]: 1.015 words a sentence + 84.6 syllables a word; 0 where there is no word."""
        if batch.tokens.size and int(batch.tokens.max()) >= self._size:
            raise ValueError(
                f"token {int(batch.tokens.max())} is outside the vocabulary of {self._size} entries; "
                "give the size of the tokenizer's vocabulary"
            )
        words, syllables, sentences = (count_runs(batch, runs) for runs in self._runs.values())
        each_sentence = words / np.maximum(sentences, 1)
        return 1.015 * each_sentence + 84.6 * syllables / np.maximum(words, 1)


def readability(decode: Callable[[np.ndarray], str], vocab_size: int) -> Metric:
    """The metric of Flesch's formula, float32: 206.835 less his reading ease.

    Source: Flesch 1948, Journal of Applied Psychology 32; as a difficulty Zhang et al. 2025, arXiv:2506.11300.
    Differs: a syllable is a run of vowels, so a silent e counts; text without a full stop is one sentence.
    """
    texts = texts_of_tokens(decode, vocab_size)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return Metric(
        name="readability",
        kind="single_value_per_sample",
        function=FleschDifficulty(texts),
        dtype="float32",
        parameters={"texts_sha256": digest, "runs": RUNS},
    )
