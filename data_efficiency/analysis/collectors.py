"""What a metric gives for batch after batch, checked and put together into one array a shard."""

from typing import Any

import numpy as np

from data_efficiency.analysis.dataset_reader import Batch, DatasetReader
from data_efficiency.analysis.metrics import Metric


def numpy_dtype(dtype: Any) -> np.dtype:
    """The numpy dtype of a metric, given as a numpy or PyTorch dtype or as a name.

    Raises:
        ValueError: if it is not an integer or float dtype that numpy has.
    """
    try:
        found = np.dtype(str(dtype).removeprefix("torch.") if "torch" in str(dtype) else dtype)
    except TypeError:
        found = None
    if found is None or found.kind not in "iuf" or found.itemsize > 8:
        raise ValueError(
            f"metric dtype {dtype!r}: an integer or float dtype up to 64 bits is needed"
        )
    return found


def as_array(result: Any) -> np.ndarray:
    """The numbers a metric function gave, as a numpy array.

    Floats of PyTorch tensors become float64, since numpy does not have all of their dtypes.
    """
    if hasattr(result, "detach"):
        result = result.detach().cpu()
        result = result.double() if result.is_floating_point() else result
    return np.asarray(result)


def checked_cast(
    array: np.ndarray, dtype: np.dtype, numbers: np.ndarray, description: str
) -> np.ndarray:
    """The same values in another dtype; floats may be rounded, nothing else may change.

    Args:
        array: values, [N].
        dtype: integer or float dtype.
        numbers: number of the sample or element each value belongs to, [N].

    Raises:
        ValueError: naming the first value that is not finite or does not fit.
    """
    if array.dtype == dtype and dtype.kind in "iu":
        return array
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{description} has {array.dtype} values: integers or floats are needed")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
        if dtype.kind == "f":
            wrong = ~np.isfinite(cast)
        else:
            wrong = (cast.astype(array.dtype) != array) | ((cast < 0) != (array < 0))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{description} {numbers[place]} is {array[place]}: no finite {dtype}")
    return cast


class ValueCollector:
    """One number for each sample of a shard."""

    def __init__(self, metric: Metric, first: int, last: int) -> None:
        self.function = metric.function
        self.first = first
        self.values = np.empty(last - first, dtype=numpy_dtype(metric.dtype))

    def add(self, batch: Batch) -> None:
        """Takes a batch of the shard in.

        Raises:
            ValueError: if the metric does not give one fitting number a sample.
        """
        values = as_array(self.function(batch.content))
        if values.size != len(batch.sample_numbers):
            raise ValueError(
                f"an array of shape {values.shape} for a batch of {len(batch.sample_numbers)} "
                "samples; one number a sample is needed"
            )
        self.values[batch.sample_numbers - self.first] = checked_cast(
            values.reshape(-1), self.values.dtype, batch.sample_numbers, "the value for sample"
        )

    def result(self) -> np.ndarray:
        """The numbers of all samples, [last - first]."""
        return self.values


class SumCollector:
    """The sum of what a metric gives for the batches of a shard.

    Sums are kept in 64 bits, whatever the metric's dtype, so that they do not wrap around.
    """

    def __init__(self, metric: Metric) -> None:
        self.function = metric.function
        self.dtype = numpy_dtype(metric.dtype)
        self.total: np.ndarray | None = None

    def add(self, batch: Batch) -> None:
        """Takes a batch of the shard in; the array the metric gave stays as it is.

        Raises:
            ValueError: if its shape is not that of earlier batches, or a value does not fit.
        """
        self.add_array(as_array(self.function(batch.content)))

    def add_array(self, array: np.ndarray) -> None:
        """Adds one array to the sum."""
        widest = np.dtype(f"{self.dtype.kind}8")
        addend = self._cast(array, widest)
        if self.total is not None and self.total.shape != addend.shape:
            raise ValueError(
                f"an array of shape {addend.shape} after one of shape {self.total.shape}"
            )
        if self.total is None:
            self.total = addend.copy()
        else:
            self.total += addend

    def result(self) -> np.ndarray:
        """The sum in the metric's dtype."""
        if self.total is None:
            raise ValueError("no batch was given")
        return self._cast(self.total, self.dtype)

    def _cast(self, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
        flat = checked_cast(array.reshape(-1), dtype, np.arange(array.size), "the sum at place")
        return flat.reshape(array.shape)


def refuse_no_sum(metric: Metric, reader: DatasetReader) -> None:
    """Raise ValueError if a metric that is added up gives two samples together another sum than apart.

    A number a sample, or a mean, would make the result depend on the batch size. Batches of one sample
    may be made in a way that does not fit two: there the shapes must tell.
    """
    if metric.kind == "single_value_per_sample" or reader.num_samples < 2:
        return
    try:
        spans = [(0, 1), (1, 2), (0, 2)]
        first, second, both = (as_array(metric.function(reader.read(*x).content)) for x in spans)
        is_sum = first.shape == second.shape == both.shape
        if is_sum and reader.samples_per_batch > 1:
            apart = first.astype(np.float64) + second
            is_sum = bool(np.abs(apart - both).max(initial=0) <= 0.1 * np.abs(apart).max(initial=0))
    except Exception:
        return  # The batches themselves fail, with the sample's number, or two samples do not fit together.
    if not is_sum:
        raise ValueError(
            f"it gives {_shown(first)} and {_shown(second)} for two samples, but {_shown(both)} for both "
            "together, and would depend on the batch size: return their sum, or declare it as "
            "single_value_per_sample"
        )


def _shown(array: np.ndarray) -> str:
    """The numbers of an array, or its shape where they are many."""
    return str(array.tolist()) if array.size < 5 else f"an array {list(array.shape)}"


def new_collector(metric: Metric, first: int, last: int) -> ValueCollector | SumCollector:
    """An empty collector for the samples first..last-1."""
    if metric.kind == "single_value_per_sample":
        return ValueCollector(metric, first, last)
    return SumCollector(metric)
