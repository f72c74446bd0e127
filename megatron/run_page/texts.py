"""What a reader of the page gets to read: texts a model wrote while it was trained, and samples from easy to hard."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from data_efficiency import DifficultyIndex
from megatron.corpus_flags import open_corpus, tokenizer_of_corpus
from megatron.reporting.run_log import Record
from megatron.run_page.log_tail import setting

MOST_WRITINGS = 40
"""Times a run wrote texts, of which the page shows so many, spread evenly, the last among them."""
PLACES = {
    "easiest": 0.0,
    "a quarter": 25.0,
    "median": 50.0,
    "three quarters": 75.0,
    "hardest": 100.0,
}
"""What the page calls a sample -> its place in the order of difficulty, in percent."""
MOST_CHARACTERS = 600
NUM_BINS = 60
MOST_COUNTED = 1_000_000
"""Samples of an index that a histogram counts."""

MayRead = Callable[[Path], bool]


def written_texts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Step and texts of the lines of kind "sample"; texts that are of another form are left out.

    Example:
        >>> written_texts([{"step": 5, "texts": [{"prompt": "a", "continuation": "b"}, 3]}])
        [{'step': 5, 'texts': [{'prompt': 'a', 'continuation': 'b'}]}]
    """
    if len(records) > MOST_WRITINGS:
        places = np.linspace(0, len(records) - 1, MOST_WRITINGS).round().astype(int)
        records = [records[place] for place in places.tolist()]
    return [{"step": record["step"], "texts": _texts(record.get("texts"))} for record in records]


def _texts(found: Any) -> list[dict[str, str]]:
    if not isinstance(found, Sequence) or isinstance(found, str):
        return []
    return [text for text in map(_text, found) if text is not None]


def _text(found: Any) -> dict[str, str] | None:
    if not isinstance(found, Mapping):
        return None
    return {key: str(found.get(key, ""))[:MOST_CHARACTERS] for key in ("prompt", "continuation")}


def selecting_metrics(start: Record) -> dict[str, dict[str, str]]:
    """Metric -> `folder` of its index, and whether its schedule says a "value" or a "percentile"."""
    section: Any = start.get("data_efficiency")
    for key in ("data_sampling", "curriculum_learning", "curriculum_metrics"):
        section = section.get(key) if isinstance(section, Mapping) else None
    if not isinstance(section, Mapping):
        return {}
    return {
        str(name): {"folder": metric["index_path"], "by": str(metric.get("difficulty_type"))}
        for name, metric in section.items()
        if isinstance(metric, Mapping) and isinstance(metric.get("index_path"), str)
    }


def texts_by_difficulty(start: Record, folder: str, may_read: MayRead) -> dict[str, Any]:
    """An index's metric, its difficulties as a histogram, and samples from the easiest to the hardest.

    Args:
        start: record of a run that is trained on the dataset the index was made of.
        may_read: whether a file or folder may be opened.

    Returns:
        `problem` in place of what cannot be read, a sentence.
    """
    if not may_read(Path(folder)):
        return {
            "problem": f"{folder} is not among the folders that this page may read: give it by --data"
        }
    try:
        # The page shows it and trains nothing on it: checksums of a large index would take minutes.
        index = DifficultyIndex.open(folder, is_checked=False)
        found = {"metric": index.metric, "num_samples": index.num_samples, **_histogram(index)}
    except (OSError, ValueError, IndexError) as error:
        return {"problem": str(error)}
    try:
        return {**found, "samples": _samples(start, index, may_read)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {**found, "problem": f"the texts cannot be shown: {error}"}


def _histogram(index: DifficultyIndex) -> dict[str, Any]:
    """Counts, from samples evenly spread over the order where there are very many, and every percentile."""
    stride = -(-index.num_samples // MOST_COUNTED)
    counts, edges = np.histogram(index.values[index.order[::stride]], bins=NUM_BINS)
    # Where a schedule that says a percentile stands on the axis of difficulties.
    places = (np.arange(101) * (index.num_samples - 1) / 100).round().astype(int)
    return {
        "counts": (counts * stride).tolist(),
        "edges": edges.tolist(),
        "percentiles": index.values[index.order[places]].tolist(),
    }


def _samples(start: Record, index: DifficultyIndex, may_read: MayRead) -> list[dict[str, Any]]:
    data = dict(setting(start, "data"))
    is_bert = start["settings"].get("architecture") == "bert"
    if not is_bert:
        data |= {"short_seq_prob": None, "sample_seed": None}
    named = SimpleNamespace(**data, data_type="bert" if is_bert else "gpt")
    _refuse_unreadable(named, may_read)
    dataset = open_corpus(named)
    index.check_dataset(dataset)
    tokenizer = tokenizer_of_corpus(named, dataset)
    found = []
    for name, percent in PLACES.items():
        sample = int(index.order[round((index.num_samples - 1) * percent / 100)])
        tokens, starts, lengths = dataset.token_spans(sample, sample + 1)
        text = tokenizer.decode(tokens[starts[0] : starts[0] + lengths[0]].tolist())
        difficulty = index.values[sample].item()
        found.append(
            {
                "place": name,
                "sample": sample,
                "difficulty": difficulty,
                "text": text[:MOST_CHARACTERS] + ("…" if len(text) > MOST_CHARACTERS else ""),
            }
        )
    return found


def _refuse_unreadable(named: SimpleNamespace, may_read: MayRead) -> None:
    """Raise ValueError if a file of the corpus or of its tokenizer may not be read."""
    corpora = named.data_path if len(named.data_path) == 1 else named.data_path[1::2]
    folder = Path(corpora[-1]).parent
    beside = [folder / "tokenizer.json", folder.parent / "tokenizer.json"]
    tokenizers = [named.tokenizer_file, named.vocab_file, named.merge_file]
    if not any(tokenizers):
        tokenizers = [file for file in beside if file.is_file()]
    for path in (*(f"{corpus}.bin" for corpus in corpora), *filter(None, tokenizers)):
        if not may_read(Path(path)):
            raise ValueError(
                f"{path} is not among the folders that this page may read: give it by --data"
            )
