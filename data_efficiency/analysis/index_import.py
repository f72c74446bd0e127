"""Difficulties that others computed, in the order of a dataset's samples, and where they come from."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data_efficiency.analysis.outside_scores import mean_over_samples, read_scores
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.deepspeed_format import own_difficulties
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files.remote import Place


class Imported(NamedTuple):
    """Difficulties in sample order, [N], and plain JSON data on where they come from."""

    values: np.ndarray
    source: dict[str, Any]


def deepspeed_difficulties(
    folder: str | PathLike[str],
    metric: str,
    *,
    shuffle_index: str | PathLike[str] | None = None,
    trust_order: bool = False,
) -> Imported:
    """The difficulties in DeepSpeed's files.

    Args:
        folder: holds `<metric>_index_to_sample` and `<metric>_index_to_metric`.
        shuffle_index, trust_order: as `own_difficulties` takes them, with its errors.
    """
    prefix = Path(folder) / metric
    return Imported(
        *own_difficulties(
            f"{prefix}_index_to_sample",
            f"{prefix}_index_to_metric",
            shuffle_index=shuffle_index,
            trust_order=trust_order,
        )
    )


def outside_difficulties(
    paths: Sequence[str | PathLike[str]],
    field: str | None,
    scores_of: Literal["samples", "documents"],
    dataset: Any,
) -> Imported:
    """Scores from files, as `read_scores` takes them, as difficulties in the order of the files.

    Args:
        scores_of: what has a score. Of documents a sample gets the mean over its tokens.
        dataset: for documents, a corpus: has `num_corpus_documents`, and either `sample_documents()`
            (where each sample lies in one), or `token_spans`, `documents` (their numbers in the corpus)
            and `document_offsets()`.

    Raises:
        ValueError: if there are not as many scores as documents.
    """
    source = {"format": "scores", "field": field, "scores_of": scores_of, "order": "trusted"}
    scores = read_scores(paths, field)
    if scores_of == "samples":
        return Imported(scores, source)
    if not hasattr(dataset, "num_corpus_documents"):
        raise ValueError("scores of documents need a corpus (--data-path and --seq-length)")
    if len(scores) != dataset.num_corpus_documents:
        raise ValueError(
            f"{len(scores)} scores for the {dataset.num_corpus_documents} documents of the corpus: "
            "empty documents, which preprocessing leaves out, must have none"
        )
    if hasattr(dataset, "sample_documents"):
        return Imported(scores[dataset.sample_documents()], source)
    _, starts, lengths = dataset.token_spans(0, len(dataset))
    scores = scores[dataset.documents.start : dataset.documents.stop]
    return Imported(mean_over_samples(scores, dataset.document_offsets(), starts, lengths), source)


def write_imported(
    path: Place,
    imported: Imported,
    *,
    metric: str,
    dataset: Any,
    overwrite: bool = False,
) -> DifficultyIndex:
    """The index of imported difficulties in the directory `path`; its manifest names the source.

    Args:
        dataset: what will be trained on, or the name of its class where it has no `identity`.

    Raises:
        ValueError: if there are not as many difficulties as samples.
        FileExistsError: if `path` is taken and may not be replaced.
    """
    num_values = len(imported.values)
    if isinstance(dataset, str):
        identity = {"type": dataset, "num_samples": num_values}
    else:
        identity = describe_dataset(dataset)
        if num_values != len(dataset):
            raise ValueError(
                f"{num_values} difficulties for {len(dataset)} samples: name the dataset they were "
                "computed on (its --split and --seq-length), or what has a score (--scores-of)"
            )
    return DifficultyIndex.write(
        path,
        imported.values,
        metric=metric,
        dataset_identity=identity,
        source=imported.source,
        overwrite=overwrite,
    )
