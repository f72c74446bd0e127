"""The published signature on all kinds of datasets."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding

from data_efficiency.analysis.data_analyzer import DataAnalyzer
from data_efficiency.analysis.map_reduce import AnalysisError


@dataclass
class Row:
    """An item or a batch as a dataclass."""

    x: torch.Tensor
    name: str = ""
    weight: float = 1.0


class Items(torch.utils.data.Dataset):
    """Item i holds the number `numbers[i]`."""

    def __init__(self, numbers, kind):
        self.numbers = numbers
        self.kind = kind

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, place):
        x = torch.tensor([self.numbers[place], 1])
        if self.kind == "dataclass":
            return Row(x)
        if self.kind == "encoding":
            return {"input_ids": x.tolist(), "attention_mask": [1, 1], "token_type_ids": [0, 0]}
        return {"tensor": x, "dict": {"x": x, "y": 1, "z": x}, "tuple": (x, 0)}[self.kind]


def collate_rows(rows):
    return Row(torch.stack([row.x for row in rows]))


def collate_encodings(items):
    """As a Hugging Face tokenizer pads items to a batch."""
    columns = {name: torch.tensor([item[name] for item in items]) for name in items[0]}
    return BatchEncoding(columns)


COLLATE = {"dataclass": collate_rows, "encoding": collate_encodings}


def numbers_in(batch):
    """The number of each row, of any kind of batch."""
    if isinstance(batch, BatchEncoding):
        return batch.input_ids[:, 0]
    if isinstance(batch, dict):
        return batch["x"][:, 0]
    if isinstance(batch, Row):
        return batch.x[:, 0]
    return batch[0][:, 0] if isinstance(batch, (tuple, list)) else batch[:, 0]


def squares(batch):
    return numbers_in(batch) ** 2


def halves(batch):
    return numbers_in(batch).numpy() / 2


def last_digits(batch):
    return torch.bincount(numbers_in(batch) % 10, minlength=10)


def analyzer(dataset, folder, **options):
    settings = {
        "metric_names": ["squares", "halves", "digits"],
        "metric_functions": [squares, halves, last_digits],
        "metric_types": [
            "single_value_per_sample",
            "single_value_per_sample",
            "accumulate_value_over_samples",
        ],
        "metric_dtypes": [torch.int64, np.float64, np.int64],
        "save_path": folder,
    }
    if isinstance(dataset, Items):
        settings["collate_fn"] = COLLATE.get(dataset.kind)
    return DataAnalyzer(dataset, **{**settings, **options})


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["tensor", "dict", "tuple", "dataclass", "encoding"]),
    num_samples=st.integers(1, 300),
    batch_size=st.integers(1, 400),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_every_sample_gets_its_own_value(tmp_path_factory, kind, num_samples, batch_size, seed):
    order = np.arange(num_samples)
    if seed is not None:
        order = np.random.default_rng(seed).permutation(num_samples)
    results = analyzer(
        Items(order, kind),
        tmp_path_factory.mktemp("results"),
        batch_size=batch_size,
        sample_indices=None if seed is None else order.tolist(),
    ).run_map_reduce()
    numbers = np.arange(num_samples)
    assert results["squares"].values.tolist() == (numbers**2).tolist()
    assert results["halves"].values.tolist() == (numbers / 2).tolist()
    assert results["halves"].values.dtype == np.float64
    assert results["digits"].value.tolist() == np.bincount(numbers % 10, minlength=10).tolist()
    assert results["squares"].dataset_identity == {"type": "Items", "num_samples": num_samples}


def test_few_distinct_values_on_request(tmp_path):
    results = analyzer(
        Items(np.arange(1000), "tensor"), tmp_path, batch_size=100, max_distinct_values=10
    ).run_map_reduce()
    assert np.unique(results["halves"].values, return_counts=True)[1].tolist() == [100] * 10
    assert results["halves"].order.tolist() == list(range(1000))
    assert len(results["digits"].value) == 10


def test_workers_and_processes_share_the_work(tmp_path):
    dataset = Items(np.arange(5000), "dict")
    for worker in (1, 0):
        part = analyzer(
            dataset, tmp_path, num_workers=2, worker_id=worker, num_threads=2, batch_size=64
        )
        if worker == 1:
            part.run_map()
            with pytest.raises(AnalysisError, match="2 of 5 shards cannot be used"):
                part.run_reduce()
    part.run_map()
    results = part.run_reduce()
    assert results["squares"].values.tolist() == [number**2 for number in range(5000)]
    with pytest.raises(ValueError, match="run_map_reduce is for one worker; with several"):
        part.run_map_reduce()


def test_positional_arguments_in_the_published_order(tmp_path):
    types = ["single_value_per_sample"]
    results = DataAnalyzer(
        [3, 4], 1, 0, 1, 1, [], 2, ["x"], [abs], types, [np.int64], str(tmp_path), np.array
    ).run_map_reduce()
    assert results["x"].values.tolist() == [3, 4]


def test_functions_that_use_torch_threads_after_a_fork(tmp_path):
    """Parallel work in the parent first: forked workers must not wait for its threads."""
    large = torch.ones(500, 500)
    torch.mm(large, large)

    def products(batch):
        return torch.mm(large, large)[0, 0].long() + numbers_in(batch)

    results = DataAnalyzer(
        Items(np.arange(100), "tensor"),
        num_threads=2,
        batch_size=10,
        metric_names=["products"],
        metric_functions=[products],
        metric_types=["single_value_per_sample"],
        metric_dtypes=[torch.int64],
        save_path=tmp_path,
    ).run_map_reduce()
    assert results["products"].values.tolist() == list(range(500, 600))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker_id": 1}, r"worker_id is 1: 0..0 is needed"),
        ({"num_threads": 0}, "num_threads is 0: at least 1"),
        ({"batch_size": 0}, "batch_size is 0: at least 1"),
        ({"metric_types": ["single_value_per_sample"]}, "metric_types has 1 entries, metric_names"),
        ({"metric_dtypes": [torch.bool] * 3}, "metric dtype torch.bool"),
        ({"metric_types": ["mean"] * 3}, "metric squares is of kind 'mean'"),
        ({"custom_reduce": print}, "custom_reduce is not supported; write a metric function"),
        ({"sample_indices": [0, 1, 1]}, "sample_indices must hold each number from 0 to 2 once"),
        ({"sample_indices": [0, 1]}, "sample_indices must hold each number from 0 to 2 once"),
        (
            {"metric_names": [], "metric_functions": [], "metric_types": [], "metric_dtypes": []},
            "no metric is given",
        ),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        analyzer(Items([0, 1, 2], "tensor"), tmp_path, **options)
