"""Results of metric functions, checked and put together."""

import dataclasses

import numpy as np
import pytest
import torch

from data_efficiency.analysis.collectors import (
    SumCollector,
    ValueCollector,
    as_array,
    checked_cast,
    new_collector,
    numpy_dtype,
    refuse_no_sum,
)
from data_efficiency.analysis.dataset_reader import Batch, ItemReader
from data_efficiency.analysis.executors import InProcessExecutor
from data_efficiency.analysis.map_reduce import AnalysisError, MapReduce
from data_efficiency.analysis.metrics import Metric


def metric(dtype="int64", kind="single_value_per_sample"):
    """A metric that gives what the batch holds."""
    return Metric(name="m", kind=kind, function=lambda content: content, dtype=dtype)


def batch(first, content):
    return Batch(np.arange(first, first + len(content)), content, 0)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int64, "int64"),
        (torch.long, "int64"),
        (torch.uint8, "uint8"),
        (torch.float32, "float32"),
        (np.int32, "int32"),
        (np.dtype("uint16"), "uint16"),
        ("float64", "float64"),
        (int, "int64"),
    ],
)
def test_dtypes_of_numpy_and_torch(dtype, name):
    assert numpy_dtype(dtype) == np.dtype(name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, np.complex128, "text", object])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="an integer or float dtype up to 64 bits is needed"):
        numpy_dtype(dtype)


@pytest.mark.parametrize(
    "result",
    [
        [1.5, 2.0],
        np.array([1.5, 2.0], np.float32),
        torch.tensor([1.5, 2.0], dtype=torch.bfloat16),
        torch.tensor([1.5, 2.0], requires_grad=True),
    ],
)
def test_results_become_arrays(result):
    assert as_array(result).tolist() == [1.5, 2.0]


def test_values_land_at_their_sample():
    collector = new_collector(metric(), 10, 14)
    collector.add(batch(12, torch.tensor([[5], [6]])))
    collector.add(batch(10, np.array([3.0, 4.0])))
    assert collector.result().tolist() == [3, 4, 5, 6]
    assert collector.result().dtype == np.int64


@pytest.mark.parametrize(
    ("dtype", "content", "message"),
    [
        ("uint8", [1, 300], "the value for sample 8 is 300: no finite uint8"),
        ("uint8", [1, -1], "sample 8 is -1: no finite uint8"),
        ("uint64", [-1, 2], "sample 7 is -1: no finite uint64"),
        ("int64", np.array([1, 2**63 + 5], np.uint64), "9223372036854775813: no finite int64"),
        ("int64", [1.5, 2.0], "sample 7 is 1.5: no finite int64"),
        ("int64", [1.0, 2.0**63], "no finite int64"),
        ("int64", [0.0, float("nan")], "sample 8 is nan: no finite int64"),
        ("float64", [0.0, float("nan")], "sample 8 is nan: no finite float64"),
        ("float32", [0.0, 1e300], r"sample 8 is 1e\+300: no finite float32"),
        ("float64", ["a", "b"], "<U1 values: integers or floats are needed"),
    ],
)
def test_values_that_do_not_fit_are_named(dtype, content, message):
    with pytest.raises(ValueError, match=message):
        ValueCollector(metric(dtype), 7, 9).add(batch(7, np.array(content)))


@pytest.mark.parametrize("shape", [(3,), (2, 2), ()])
def test_one_number_a_sample(shape):
    rows = Batch(np.arange(2), np.zeros(shape), 0)
    with pytest.raises(ValueError, match="for a batch of 2 samples; one number a sample"):
        ValueCollector(metric(), 0, 2).add(rows)


def test_sums_leave_the_metrics_array_alone_and_do_not_wrap():
    collector = new_collector(metric("int64", "accumulate_value_over_samples"), 0, 9)
    cached = torch.full((3,), 100, dtype=torch.uint8)
    for _ in range(4):
        collector.add(batch(0, cached))
    assert collector.result().tolist() == [400] * 3
    assert cached.tolist() == [100] * 3
    own = np.array([1, 2])
    collector = SumCollector(metric("int64", "accumulate_value_over_samples"))
    collector.add(batch(0, own))
    collector.add(batch(0, own))
    assert own.tolist() == [1, 2]


def test_sums_that_do_not_fit():
    collector = SumCollector(metric("uint8", "accumulate_value_over_samples"))
    with pytest.raises(ValueError, match="no batch was given"):
        collector.result()
    collector.add(batch(0, np.array([1, 200], np.uint8)))
    collector.add(batch(0, np.array([1, 100], np.uint8)))
    with pytest.raises(ValueError, match="the sum at place 1 is 300: no finite uint8"):
        collector.result()
    with pytest.raises(ValueError, match=r"shape \(3,\) after one of shape \(2,\)"):
        collector.add(batch(0, np.zeros(3, np.uint8)))


def test_sums_of_single_numbers_and_tables():
    for content in (np.float32(0.5), np.full((2, 3), 0.5)):
        collector = SumCollector(metric("float64", "accumulate_value_over_samples"))
        for _ in range(3):
            collector.add(Batch(np.arange(1), content, 0))
        assert np.array_equal(collector.result(), np.full(np.shape(content), 1.5))


PER_SAMPLE = {"each": lambda batch: batch, "mean": lambda batch: batch.double().mean()}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_what_is_no_sum_over_samples_is_not_added_up(tmp_path, name, batch_size):
    reader = ItemReader(range(1, 13), batch_size=batch_size)
    own = Metric(
        name="own",
        kind="accumulate_value_over_samples",
        function=PER_SAMPLE[name],
        dtype="float64",
        reads="items",
    )
    job = MapReduce(reader, [own], tmp_path)
    if name == "mean" and batch_size == 1:
        job.run_map(InProcessExecutor())  # The batch size does not change here.
        return
    with pytest.raises(
        AnalysisError, match=r"metric own: it gives \[?1.* and \[?2.* both together"
    ):
        job.run_map(InProcessExecutor())


def test_batches_of_one_may_be_made_for_one():
    """Two items of other lengths do not go into one batch, and a collate function may take the first."""
    items = [torch.ones(3), torch.ones(4)]
    for collate_fn in (None, lambda batch: batch[0]):
        reader = ItemReader(items, batch_size=1, collate_fn=collate_fn)
        own = metric("float64", "accumulate_value_over_samples")
        refuse_no_sum(dataclasses.replace(own, function=torch.sum), reader)


def test_floats_may_be_rounded():
    cast = checked_cast(np.array([0.1]), np.dtype("float32"), np.arange(1), "x")
    assert cast.tolist() == [np.float32(0.1)]
