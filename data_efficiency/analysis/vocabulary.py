"""Frequency and rarity of the words of a corpus, from start to finish."""

import logging
from os import PathLike
from pathlib import Path
from typing import Any

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.dataset_reader import TokenSpanReader
from data_efficiency.analysis.map_reduce import MapReduce, executor_for
from data_efficiency.analysis.metrics import Metric, total_vocab_freq, vocab_rarity
from data_efficiency.difficulty_index import DifficultyIndex

logger = logging.getLogger(__name__)


def _compute(
    dataset: Any, metric: Metric, save_path: Path, num_processes: int, overwrite: bool
) -> None:
    """Nothing; computes one metric on tokens into its folder."""
    job = MapReduce(TokenSpanReader(dataset), [metric], save_path, overwrite=overwrite)
    job.run_map(executor_for(num_processes))
    job.run_reduce()


def analyze_vocab_frequency(
    dataset: Any,
    save_path: str | PathLike[str],
    vocab_size: int,
    *,
    num_processes: int = 1,
    overwrite: bool = False,
) -> AccumulatedValue:
    """How often each token occurs in the dataset, in `<save_path>/total_vocab_freq`.

    Computed unless it is there already; a stopped computation is continued.

    Args:
        dataset: has `token_spans` (see `TokenSpanReader`).
        save_path: folder of the results.
        vocab_size: entries of the tokenizer's vocabulary; the value has one place more.
        num_processes: processes on this machine.
        overwrite: compute it anew even if it is there.

    Raises:
        ValueError: if the result that is there belongs to another dataset or vocabulary.
        AnalysisError: if a part of the work fails.
    """
    metric = total_vocab_freq(vocab_size)
    folder = Path(save_path) / metric.name
    if overwrite or not folder.exists():
        _compute(dataset, metric, Path(save_path), num_processes, overwrite)
    frequency = AccumulatedValue.open(folder)
    frequency.check_dataset(dataset)
    if frequency.value.shape != (vocab_size + 1,):
        raise ValueError(
            f"{folder} counts a vocabulary of {len(frequency.value) - 1} entries, not {vocab_size}; "
            "overwrite it or save elsewhere"
        )
    return frequency


def analyze_vocab_rarity(
    dataset: Any,
    save_path: str | PathLike[str],
    vocab_size: int,
    *,
    num_processes: int = 1,
    overwrite: bool = False,
) -> DifficultyIndex:
    """The difficulty index of vocabulary rarity, in `<save_path>/vocab_rarity`.

    Counts the tokens first (`analyze_vocab_frequency`). What is there already is used, a stopped
    computation is continued. Arguments and errors are those of `analyze_vocab_frequency`.
    """
    frequency = analyze_vocab_frequency(
        dataset, save_path, vocab_size, num_processes=num_processes, overwrite=overwrite
    )
    metric = vocab_rarity(frequency.value, {"frequency_sha256": frequency.checksum})
    folder = Path(save_path) / metric.name
    if overwrite or not folder.exists():
        _compute(dataset, metric, Path(save_path), num_processes, overwrite)
    else:
        logger.info("%s is there already", folder)
    index = DifficultyIndex.open(folder)
    index.check_dataset(dataset)
    return index
