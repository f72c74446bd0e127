"""Frequency and rarity of the words of a corpus, from start to finish."""

from os import PathLike
from typing import Any

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.named_metrics import FREQUENCY, MetricSettings, analyze
from data_efficiency.difficulty_index import DifficultyIndex


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
    settings = MetricSettings(vocab_size=vocab_size)
    work: dict[str, Any] = {"num_processes": num_processes, "overwrite": overwrite}
    result = analyze(dataset, FREQUENCY, save_path, settings, **work)
    assert isinstance(result, AccumulatedValue)
    return result


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
    settings = MetricSettings(vocab_size=vocab_size)
    work: dict[str, Any] = {"num_processes": num_processes, "overwrite": overwrite}
    result = analyze(dataset, "vocab_rarity", save_path, settings, **work)
    assert isinstance(result, DifficultyIndex)
    return result
