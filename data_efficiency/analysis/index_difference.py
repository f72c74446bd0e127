"""Two indexes of one dataset as one: how much harder each sample is by the first than by the second.

With the reference losses of a weak and of a strong model that is what the strong one knows and the weak one does not;
with those of two checkpoints of one model, what training between them has taught: how learnable a sample is.

Source: the difference of perplexities of two models as a difficulty, PDPC (Zhang et al., arXiv 2501.13126).
Differs: of losses, which are the perplexities' logarithms.
"""

import numpy as np

from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files.remote import Place


def write_difference(
    path: Place,
    first: DifficultyIndex,
    second: DifficultyIndex,
    *,
    metric: str,
    overwrite: bool = False,
) -> DifficultyIndex:
    """The index of first - second, written to the directory `path`.

    Differences of whole numbers are exact; others are of double precision.

    Raises:
        ValueError: if the two are of other datasets, or a difference is no number that an index can hold.
        FileExistsError: as `DifficultyIndex.write`.
    """
    if first.dataset_identity != second.dataset_identity:
        raise ValueError(f"{second.place} is an index of another dataset than {first.place}")
    return DifficultyIndex.write(
        path,
        np.subtract(_wide(first), _wide(second)),
        metric=metric,
        dataset_identity=first.dataset_identity,
        source={
            "format": "difference",
            **{name: _described(index) for name, index in (("first", first), ("second", second))},
        },
        overwrite=overwrite,
    )


def _wide(index: DifficultyIndex) -> np.ndarray:
    """The values in a type whose differences do not overflow."""
    values = np.asarray(index.values)
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    if values.size and max(abs(int(values.min())), abs(int(values.max()))) >= 2**62:
        raise ValueError(
            f"{index.place} has difficulties up to {values.max()}: a difference of such numbers may not be held"
        )
    return values.astype(np.int64)


def _described(index: DifficultyIndex) -> dict[str, str]:
    return {
        "metric": index.metric,
        "path": index.place,
        "values": index.manifest["files"]["values.npy"]["sha256"],
    }
