"""Metrics by their names, and the analysis of a dataset under one from start to finish."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.dataset_reader import (
    DatasetReader,
    ItemReader,
    StreamReader,
    TokenSpanReader,
)
from data_efficiency.analysis.diversity_metrics import compression_ratio, lexical_diversity
from data_efficiency.analysis.executors import Executor
from data_efficiency.analysis.map_reduce import MapReduce, Result, executor_for
from data_efficiency.analysis.metrics import (
    Metric,
    MetricKind,
    seqlen,
    seqlen_vocab_rarity,
    total_vocab_freq,
    vocab_rarity,
)
from data_efficiency.analysis.readability import readability
from data_efficiency.analysis.reference_loss import LoadModel, MeanTokenLoss
from data_efficiency.analysis.streams import is_stream
from data_efficiency.analysis.token_rows import token_rows
from data_efficiency.analysis.user_functions import import_function
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files.remote import Location, Place, location
from data_efficiency.files.result_folder import is_result

logger = logging.getLogger(__name__)

TOKENS_FOLDER = "tokens"
"""Of the rows that results were computed of, beside them."""
FREQUENCY = "total_vocab_freq"
NEEDS_FREQUENCY = ("vocab_rarity", "seqlen_vocab_rarity")


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """What metrics need besides the dataset; each reads its own part of it."""

    vocab_size: int | None = None
    """Frequency and rarity: entries of the vocabulary. None: the dataset's `vocab_size`."""
    max_length: int | None = None
    """Length and rarity: longest sequence there can be. None: the dataset's `sequence_length`."""
    load_model: LoadModel | None = None
    """Reference loss: gives the model."""
    model_identity: Mapping[str, Any] = field(default_factory=dict)
    """Reference loss: plain JSON data that says which model it is."""
    device: str = "cpu"
    """Reference loss: where the model runs."""
    model_dtype: str = "float32"
    """Reference loss: float32 or bfloat16."""
    decode: Callable[[Any], str] | None = None
    """Readability: the text of some tokens, int64 [n]. None: what the dataset's tokenizer says."""
    reads: Literal["token_spans", "items"] = "token_spans"
    """Own functions: see `Metric`, also for the next two."""
    kind: MetricKind = "single_value_per_sample"
    dtype: str = "float64"
    batch_size: int = 256
    """Own functions of items: items a batch."""
    column: str | None = None
    """Datasets of rows: see `token_rows`, also for the next two."""
    tokenizer: Any = None
    made_from: Mapping[str, Any] | None = None


def metric_named(name: str, dataset: Any, save_path: Place, settings: MetricSettings) -> Metric:
    """The metric of a name, or of a function of your own named `package.module:function`.

    Args:
        save_path: folder of the results; `NEEDS_FREQUENCY` need `total_vocab_freq` there.

    Raises:
        ValueError: if there is no such metric, or a setting that it needs is missing.
        FileNotFoundError: if the frequencies are missing.
    """
    if ":" in name:
        return Metric(
            name=name.rpartition(":")[2],
            kind=settings.kind,
            function=import_function(name),
            dtype=settings.dtype,
            reads=settings.reads,
            parameters={"function": name},
        )
    if name not in METRICS:
        raise ValueError(
            f"metric is {name!r}: one of {', '.join(METRICS)}, or package.module:function"
        )
    return METRICS[name](dataset, location(save_path), settings)


def analyze(
    dataset: Any,
    name: str,
    save_path: Place,
    settings: MetricSettings | None = None,
    *,
    num_processes: int | None = None,
    executor: str = "processes",
    max_distinct_values: int | None = None,
    overwrite: bool = False,
) -> Result:
    """The result of a metric in `<save_path>/<metric>`, computed unless it is there already.

    Metrics of `NEEDS_FREQUENCY` count the tokens first. A stopped computation is continued.

    Args:
        dataset: has `token_spans`; or is a `datasets.Dataset`, a stream or another dataset of rows, whose tokens
            are kept in `<save_path>/tokens`; or has items for an own function that reads them.
        num_processes: parts that are computed at once. None: one, or with "ray" as many as the cluster has CPUs.
        executor: "processes" of this machine, or "ray", a Ray cluster (see `RayExecutor`).
        max_distinct_values: see `DifficultyIndex.write`.

    Raises:
        ValueError: if something is not right, or the result there is of other data or settings.
        AnalysisError: if a part of the work fails.
    """
    settings = settings or MetricSettings()
    workers = partial(executor_for, num_processes, executor)
    if settings.reads == "token_spans" and not hasattr(dataset, "token_spans"):
        dataset = token_rows(
            dataset,
            location(save_path) / TOKENS_FOLDER,
            column=settings.column,
            tokenizer=settings.tokenizer,
            made_from=settings.made_from,
            executor=workers(),
            overwrite=overwrite,
        )
    if name in NEEDS_FREQUENCY:
        _computed(FREQUENCY, dataset, save_path, settings, workers, overwrite=overwrite)
    return _computed(
        *(name, dataset, save_path, settings, workers),
        overwrite=overwrite,
        max_distinct_values=max_distinct_values,
    )


def _computed(
    name: str,
    dataset: Any,
    save_path: Place,
    settings: MetricSettings,
    workers: Callable[[], Executor],
    *,
    overwrite: bool,
    max_distinct_values: int | None = None,
) -> Result:
    """The result of a metric whose dataset can be read as it is, computed unless it is there."""
    metric = metric_named(name, dataset, save_path, settings)
    folder = location(save_path) / metric.name
    if overwrite or not is_result(folder):
        job = MapReduce(
            reader_for(metric, dataset, settings),
            [metric],
            save_path,
            max_distinct_values=max_distinct_values,
            overwrite=overwrite,
        )
        job.run_map(workers())
        return job.run_reduce()[metric.name]
    logger.info("%s is there already", folder)
    if name == FREQUENCY:
        return _frequency(location(save_path), dataset, settings)
    result = open_result(metric, save_path)
    result.check_dataset(dataset)
    stored = result.manifest.get("max_distinct_values")
    if stored != max_distinct_values:
        raise ValueError(
            f"{folder} was made with max_distinct_values {stored}, not {max_distinct_values}; "
            "overwrite it or save elsewhere"
        )
    return result


def open_result(metric: Metric, save_path: Place) -> Result:
    """The result of a metric that is there, memory-mapped; errors are those of its kind's `open`."""
    kind = DifficultyIndex if metric.kind == "single_value_per_sample" else AccumulatedValue
    return kind.open(location(save_path) / metric.name)


def reader_for(metric: Metric, dataset: Any, settings: MetricSettings) -> DatasetReader:
    """The reader that delivers what a metric reads."""
    if metric.reads == "items" and is_stream(dataset):
        return StreamReader(dataset, batch_size=settings.batch_size)
    if metric.reads == "items":
        return ItemReader(dataset, batch_size=settings.batch_size)
    return TokenSpanReader(dataset)


def _vocab_size(dataset: Any, settings: MetricSettings) -> int:
    """Entries of the vocabulary: what is set, or else what the dataset says."""
    vocab_size = settings.vocab_size
    if vocab_size is None:
        vocab_size = getattr(dataset, "vocab_size", None)
    if vocab_size is None or vocab_size < 1:
        raise ValueError(
            f"vocab_size is {vocab_size}: give the entries of the vocabulary (--vocab-size), at "
            f"least 1, where the {type(dataset).__name__} does not know them"
        )
    return int(vocab_size)


def _frequency(save_path: Location, dataset: Any, settings: MetricSettings) -> AccumulatedValue:
    """The token frequencies of a dataset, from the folder of the results."""
    folder = save_path / FREQUENCY
    if not is_result(folder):
        raise FileNotFoundError(
            f"{folder} is missing: analyze the metric {FREQUENCY} first (map and reduce)"
        )
    frequency = AccumulatedValue.open(folder)
    frequency.check_dataset(dataset)
    vocab_size = _vocab_size(dataset, settings)
    if frequency.value.shape != (vocab_size + 1,):
        raise ValueError(
            f"{folder} counts a vocabulary of {len(frequency.value) - 1} entries, not {vocab_size}; "
            "overwrite it or save elsewhere"
        )
    return frequency


def _vocab_rarity(dataset: Any, save_path: Location, settings: MetricSettings) -> Metric:
    frequency = _frequency(save_path, dataset, settings)
    return vocab_rarity(frequency.value, {"frequency_sha256": frequency.checksum})


def _seqlen_vocab_rarity(dataset: Any, save_path: Location, settings: MetricSettings) -> Metric:
    frequency = _frequency(save_path, dataset, settings)
    max_length = settings.max_length or getattr(dataset, "sequence_length", None)
    if max_length is None:
        raise ValueError(
            "max_length is not set: seqlen_vocab_rarity needs the longest length of the "
            f"{type(dataset).__name__}"
        )
    return seqlen_vocab_rarity(
        frequency.value, max_length, {"frequency_sha256": frequency.checksum}
    )


def _reference_loss(_dataset: Any, _save_path: Location, settings: MetricSettings) -> Metric:
    if settings.load_model is None:
        raise ValueError("reference_loss needs a model (--model): a folder with a checkpoint")
    dtype = settings.model_dtype
    return Metric(
        name="reference_loss",
        kind="single_value_per_sample",
        function=MeanTokenLoss(settings.load_model, device=settings.device, dtype=dtype),
        dtype="float32",
        parameters={"model": dict(settings.model_identity), "dtype": dtype},
    )


def _readability(dataset: Any, _save_path: Location, settings: MetricSettings) -> Metric:
    tokenizer = getattr(dataset, "tokenizer", None)
    decode = settings.decode or getattr(tokenizer, "decode", None)
    if decode is None:
        raise ValueError(
            "readability needs the tokenizer (--tokenizer-file, where it is not beside the data): what texts tokens are"
        )
    return readability(decode, _vocab_size(dataset, settings))


METRICS: Mapping[str, Callable[[Any, Location, MetricSettings], Metric]] = {
    "seqlen": lambda dataset, save_path, settings: seqlen(),
    FREQUENCY: lambda dataset, save_path, settings: total_vocab_freq(
        _vocab_size(dataset, settings)
    ),
    "vocab_rarity": _vocab_rarity,
    "seqlen_vocab_rarity": _seqlen_vocab_rarity,
    "compression_ratio": lambda dataset, save_path, settings: compression_ratio(),
    "lexical_diversity": lambda dataset, save_path, settings: lexical_diversity(),
    "readability": _readability,
    "reference_loss": _reference_loss,
}
