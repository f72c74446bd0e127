"""The difficulty of a sample among those of its own source, for mixes.

What is hard differs from source to source: by the values of a metric a curriculum takes code last and dialogue first, whatever
the weights of the mix. By ranks inside each source all sources grow at once: of each the easiest p percent are
admitted together.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files.remote import Place

SCALE = 10_000
"""Ranks go from 0, the easiest of a source, to below this."""


def ranks_in_sources(order: NDArray[Any], sources: NDArray[Any]) -> NDArray[np.int64]:
    """int64 [N]: how many ten-thousandths of its source are easier than each sample.

    Args:
        order: sample numbers from easy to hard, [N].
        sources: which source each sample is of, integers >= 0, [N].

    Example:
        >>> ranks_in_sources(np.array([3, 1, 0, 2]), np.array([0, 0, 1, 1])).tolist()
        [5000, 0, 5000, 0]
    """
    in_order = sources[order]
    by_source = np.argsort(in_order, kind="stable")
    sizes = np.bincount(sources)
    begins = np.cumsum(sizes) - sizes
    places = np.empty(len(order), np.int64)
    places[by_source] = np.arange(len(order)) - begins[in_order[by_source]]
    ranks = np.empty(len(order), np.int64)
    ranks[order] = places * SCALE // sizes[in_order]
    return ranks


def sources_of_parts(part_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Which part of a blend each sample is of, int64 [N]; the parts stand one after the other."""
    return np.repeat(np.arange(len(part_sizes)), part_sizes)


def sources_of_rows(
    rows: Iterable[Mapping[str, Any]], field: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Which source each row is of, int64 [N], and the names of the sources.

    Args:
        field: holds the name, or a number: a column, or keys joined by dots, such as `meta.set`.

    Raises:
        ValueError: naming the row that has none.
    """
    names: dict[str, int] = {}
    sources = []
    for number, row in enumerate(rows):
        value: Any = row
        for key in [field] if field in row else field.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(
                f"row {number} has no source: {field!r} is {value!r}, but must be a name or a number"
            )
        sources.append(names.setdefault(str(value), len(names)))
    return np.array(sources, np.int64), list(names)


def write_ranks(
    path: Place,
    index: DifficultyIndex,
    sources: NDArray[np.int64],
    names: Sequence[str] | None = None,
    *,
    metric: str,
    overwrite: bool = False,
) -> DifficultyIndex:
    """The index of ranks inside each source, written to the folder or URL `path`.

    Args:
        sources: which source each sample is of, int64 [N].
        names: of the sources. Not given: their numbers.

    Raises:
        ValueError: if there are not as many sources as samples.
        FileExistsError: as `DifficultyIndex.write`.
    """
    if len(sources) != index.num_samples:
        raise ValueError(
            f"{len(sources)} rows say their source, but {index.place} has {index.num_samples} samples"
        )
    index.check_files()
    sizes = np.bincount(sources, minlength=0 if names is None else len(names)).tolist()
    known = [str(number) for number in range(len(sizes))] if names is None else list(names)
    return DifficultyIndex.write(
        path,
        ranks_in_sources(np.asarray(index.order), sources),
        metric=metric,
        dataset_identity=index.dataset_identity,
        source={
            "format": "ranks in sources",
            "metric": index.metric,
            "values": index.manifest["files"]["values.npy"]["sha256"],
            "sources": [list(one) for one in zip(known, sizes, strict=True)],
        },
        overwrite=overwrite,
    )
