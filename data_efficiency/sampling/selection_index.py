"""The difficulty index that a metric of the JSON file names: ours, or DeepSpeed's own files."""

from typing import Any

from data_efficiency.config import Selection
from data_efficiency.dataset_identity import describe_dataset
from data_efficiency.deepspeed_format import is_index, own_difficulties
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError


def open_index(selection: Selection, dataset: Any = None) -> DifficultyIndex:
    """The index of a selection, checked against the dataset, where there is one; its files are not yet.

    DeepSpeed's files are read into memory, at every start; `tools/analyze_data.py import` makes an index of
    ours of them.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged or of another dataset.
        ConfigError: if the keys do not say whose samples an index of DeepSpeed numbers.
    """
    path = selection.index_path
    if is_index(path):
        index = _of_deepspeed(selection, dataset)
    elif selection.trust_order or selection.shuffle_index:
        raise ConfigError(
            f"metric {selection.name!r} has trust_order or shuffle_index, but {path}.idx, DeepSpeed's file, is "
            "not there: correct index_to_sample_path, or remove the key"
        )
    else:
        index = DifficultyIndex.open(path, is_checked=False)
    if dataset is not None:
        index.check_dataset(dataset)
    return index


def _of_deepspeed(selection: Selection, dataset: Any) -> DifficultyIndex:
    if selection.values_path is None:
        raise ConfigError(
            f"metric {selection.name!r} names DeepSpeed's {selection.index_path}, but no index_to_metric_path: "
            "name the file of the values beside it"
        )
    values, source = own_difficulties(
        selection.index_path,
        selection.values_path,
        shuffle_index=selection.shuffle_index,
        trust_order=selection.trust_order,
    )
    identity = {"num_samples": len(values)} if dataset is None else describe_dataset(dataset)
    return DifficultyIndex.in_memory(
        selection.index_path,
        values,
        metric=selection.name,
        dataset_identity=identity,
        source=source,
    )
