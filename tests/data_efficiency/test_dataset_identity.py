import pytest
import torch

from data_efficiency import Curriculum, CurriculumSampler, DataEfficiencyConfig, analyze
from data_efficiency.dataset_identity import describe_dataset, fingerprint_of, order_of_view


class Told(list):
    def __init__(self, **identity):
        self.identity = identity


def test_description_and_fingerprint():
    assert describe_dataset([5, 6]) == {"type": "list", "num_samples": 2}
    assert describe_dataset(Told(split=("train", 1)))["split"] == ["train", 1]
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
    with pytest.raises(ValueError, match="identity of Told is not plain JSON data"):
        describe_dataset(Told(split=object()))


def test_a_subset_says_which_rows_it_takes():
    def subset(*rows):
        return torch.utils.data.Subset(range(9), list(rows))

    assert describe_dataset(subset(1, 2)) == describe_dataset(subset(1, 2))
    assert describe_dataset(subset(1, 2)) != describe_dataset(subset(2, 1))
    assert describe_dataset(subset(1, 2)) != describe_dataset(subset(3, 4))


def test_a_subset_of_a_subset_takes_the_rows_of_the_first_one():
    subset = torch.utils.data.Subset
    rows = range(9)
    nested = subset(subset(rows, [3, 2, 1, 0]), [0, 1, 2])
    assert describe_dataset(nested) == describe_dataset(subset(rows, [3, 2, 1]))
    assert describe_dataset(nested) != describe_dataset(subset(rows, [0, 1, 2]))
    assert describe_dataset(subset(subset(rows, [1, 0]), [1, 0])) == (
        describe_dataset(subset(rows, [0, 1]))
    )


def test_an_index_is_not_taken_for_the_rows_in_another_order(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": [[1] * (1 + i % 7) for i in range(200)]})
    shuffled = rows.shuffle(seed=1)
    for name, dataset in (("rows", rows), ("shuffled", shuffled)):
        analyze(dataset, "seqlen", tmp_path / name)

    def sampler_of(dataset, name):
        part = Curriculum("seqlen", index=tmp_path / name / "seqlen", start=10, steps=5)
        return CurriculumSampler(dataset, DataEfficiencyConfig.of(part), micro_batch_size=4)

    assert order_of_view(rows) == {}
    sampler_of(rows, "rows")
    sampler_of(shuffled, "shuffled")
    sampler_of(rows.shuffle(seed=1), "shuffled")
    sampler_of(shuffled.flatten_indices(), "rows")  # what stands there is the user's word
    views = [shuffled, rows.select(range(199, -1, -1))]
    for dataset, name in [*((view, "rows") for view in views), (rows.shuffle(seed=2), "shuffled")]:
        with pytest.raises(ValueError, match=r"order: expected .*flatten_indices\(\)"):
            sampler_of(dataset, name)


def test_what_takes_all_rows_as_they_come_is_no_view_and_a_tensor_is_none():
    """trl's SFTTrainer filters its rows and keeps all of them."""
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": [[1], [2], [3]]})
    assert describe_dataset(rows.filter(lambda row: True)) == describe_dataset(rows)
    assert describe_dataset(rows.filter(lambda row: row["input_ids"] != [2])) != (
        describe_dataset(rows.select(range(2)))
    )
    assert describe_dataset(torch.arange(3)) == {"type": "Tensor", "num_samples": 3}
