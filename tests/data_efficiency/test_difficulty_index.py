"""The difficulty index against brute force, and every way a directory can fail to be one."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.files.result_folder import write_manifest

IDENTITY = {"files": {"corpus.bin": {"num_bytes": 10}}, "sequence_length": 8, "split": "train"}


class Dataset:
    def __init__(self, num_samples=4, **changes):
        self.identity = {**IDENTITY, **changes}
        self.num_samples = num_samples

    def __len__(self):
        return self.num_samples


@pytest.fixture
def index(tmp_path):
    values = np.array([30, 10, 20, 10])
    return DifficultyIndex.write(
        tmp_path / "index", values, metric="length", dataset_identity=IDENTITY
    )


integers = st.one_of(
    st.lists(st.integers(-128, 127), min_size=1, max_size=80),
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=80),
    st.lists(st.integers(2**40, 2**40 + 70000), min_size=1, max_size=80),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=80),
)
floats = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=80)


@settings(max_examples=150, deadline=None)
@given(
    values=st.one_of(integers.map(lambda x: np.array(x, np.int64)), floats.map(np.array)),
    bounds=st.lists(st.integers(-300, 40000), max_size=8),
    max_percentile=st.integers(1, 120),
)
def test_index_equals_brute_force(tmp_path_factory, values, bounds, max_percentile):
    folder = tmp_path_factory.mktemp("index") / "x"
    written = DifficultyIndex.write(folder, values, metric="m", dataset_identity=IDENTITY)
    written.verify()
    index = DifficultyIndex.open(folder)
    assert index.values.tolist() == values.tolist()
    assert index.order.tolist() == sorted(range(len(values)), key=lambda i: (values[i], i))
    assert (index.min_value, index.max_value) == (min(values.tolist()), max(values.tolist()))
    assert index.num_distinct_values == len(set(values.tolist()))
    assert (index.num_samples, index.metric) == (len(values), "m")

    bounds = [*bounds, *values.tolist()[:5]]
    expected = [sum(x <= bound for x in values.tolist()) for bound in bounds]
    assert [index.num_at_most(bound) for bound in bounds] == expected
    assert index.num_at_most(np.array(bounds)).tolist() == expected

    percentiles = np.arange(max_percentile + 2)
    part = len(values) // max_percentile
    expected = [len(values) if p >= max_percentile else part * p for p in percentiles.tolist()]
    assert index.num_in_percentile(percentiles, max_percentile).tolist() == expected
    assert index.num_in_percentile(max_percentile, max_percentile) == len(values)
    shutil.rmtree(folder)


@settings(max_examples=150, deadline=None)
@given(
    values=st.one_of(integers.map(lambda x: np.array(x, np.int64)), floats.map(np.array)),
    max_distinct_values=st.integers(1, 90),
)
def test_quantised_values_keep_the_exact_order(tmp_path_factory, values, max_distinct_values):
    folder = tmp_path_factory.mktemp("index") / "x"
    index = DifficultyIndex.write(
        folder,
        values,
        metric="m",
        dataset_identity=IDENTITY,
        max_distinct_values=max_distinct_values,
    )
    index.verify()
    assert index.order.tolist() == sorted(range(len(values)), key=lambda i: (values[i], i))
    stored = index.values.tolist()
    assert len(set(stored)) == index.num_distinct_values <= max_distinct_values
    if len(set(values.tolist())) <= max_distinct_values:
        assert stored == values.tolist()
    assert set(stored) <= set(values.tolist()), "every stored difficulty is that of a sample"
    assert all(new >= old for new, old in zip(stored, values.tolist(), strict=True))
    assert max(stored) == max(values.tolist())
    assert index.num_at_most(index.min_value) == stored.count(min(stored))
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "uint8"),
        ([0, 256], "uint16"),
        ([-1, 127], "int8"),
        ([-1, 128], "int16"),
        ([-1, 2**63 - 1], "int64"),
        ([0, 2**63 - 1], "uint64"),
        ([0, 2**32 - 1], "uint32"),
        (np.array([True, False]), "uint8"),
        (np.array([0.5, 2], np.float16), "float32"),
        (np.array([0.5, 2], np.float32), "float32"),
        ([0.5, 2], "float64"),
    ],
)
def test_values_are_stored_in_the_smallest_dtype(tmp_path, values, dtype):
    index = DifficultyIndex.write(tmp_path / "x", values, metric="m", dataset_identity={})
    assert index.values.dtype == dtype
    assert index.values.tolist() == np.asarray(values).tolist()
    index.verify()


@pytest.mark.parametrize(("num_samples", "dtype"), [(256, "uint8"), (257, "uint16")])
def test_order_has_the_smallest_unsigned_dtype(tmp_path, num_samples, dtype):
    index = DifficultyIndex.write(
        tmp_path / "x", np.zeros(num_samples), metric="m", dataset_identity={}
    )
    assert index.order.dtype == dtype
    assert index.order.tolist() == list(range(num_samples))


def test_bounds_beyond_the_values_and_shapes(index):
    assert index.num_at_most(float("-inf")) == 0
    assert index.num_at_most(float("inf")) == 4
    assert index.num_at_most(-(2**80)) == 0
    assert index.num_at_most(19.5) == 2
    assert index.num_at_most(np.array([[9, 10], [29, 1000]])).tolist() == [[0, 2], [3, 4]]
    assert isinstance(index.num_at_most(10), int)
    assert isinstance(index.num_in_percentile(3, 4), int)


def test_directory_holds_three_files_and_the_arrays_cannot_be_written(index):
    names = sorted(path.name for path in index.path.iterdir())
    assert names == ["manifest.json", "order.npy", "values.npy"]
    with pytest.raises(ValueError, match="read-only"):
        index.values[0] = 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, float("nan"), 2.0], "difficulty of sample 1 is nan: must be finite"),
        ([float("inf"), 2.0], "difficulty of sample 0 is inf: must be finite"),
        ([], r"shape \(0,\): one number for each sample"),
        ([[1, 2]], r"shape \(1, 2\)"),
        (["a"], "dtype <U1: integers, float32 or float64"),
        ([1j], "dtype complex128"),
    ],
)
def test_bad_values_are_refused_and_leave_nothing(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        DifficultyIndex.write(tmp_path / "x", values, metric="m", dataset_identity={})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_index_is_replaced_only_on_request(index):
    values = np.array([3, 2, 1])
    with pytest.raises(FileExistsError, match="already exists; remove it or pass overwrite=True"):
        DifficultyIndex.write(index.path, values, metric="m", dataset_identity={})
    assert DifficultyIndex.open(index.path).num_samples == 4
    new = DifficultyIndex.write(index.path, values, metric="m", dataset_identity={}, overwrite=True)
    assert new.order.tolist() == [2, 1, 0]
    assert index.values.tolist() == [30, 10, 20, 10], "an open map keeps the old files"
    assert [path.name for path in index.path.parent.iterdir()] == ["index"]


def test_missing_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x is not a difficulty index: manifest.json"):
        DifficultyIndex.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "recipe"}, "is not a difficulty index: its manifest says format 'recipe'"),
        (
            {"version": 2},
            "of version 2, this program reads version 1: update it, or analyze the dataset again",
        ),
        ({"num_samples": 5}, r"has shape \(4,\) but the manifest says 5 samples"),
    ],
)
def test_other_manifest(index, change, message):
    write_manifest(index.path, {**index.manifest, **change})
    with pytest.raises(ValueError, match=message):
        DifficultyIndex.open(index.path)


def test_damaged_files(index):
    file = index.path / "order.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"order.npy has 131 bytes instead of 132: truncated"):
        DifficultyIndex.open(index.path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"order.npy is missing"):
        DifficultyIndex.open(index.path)
    file.write_bytes(data)
    for name in ("order.npy", "values.npy"):
        data = (index.path / name).read_bytes()
        for place in (-1, -3, 60):
            flipped = bytearray(data)
            flipped[place] ^= 1
            (index.path / name).write_bytes(flipped)
            with pytest.raises(ValueError, match=f"{name} was changed after .*; analyze"):
                DifficultyIndex.open(index.path)
        (index.path / name).write_bytes(data)
    DifficultyIndex.open(index.path)
    (index.path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json is not valid JSON"):
        DifficultyIndex.open(index.path)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 1, 2, 0], "does not hold every sample number once"),
        ([1, 3, 2, 9], "does not hold every sample number once"),
        ([3, 1, 2, 0], "not sorted by .* at place 1"),
        ([1, 3, 0, 2], "not sorted by .* at place 3"),
    ],
)
def test_verify_finds_a_wrong_order_with_a_right_checksum(index, order, message):
    wrong = DifficultyIndex(
        index.path, index.manifest, index.values, np.array(order, dtype=np.uint8)
    )
    with pytest.raises(ValueError, match=message):
        wrong.verify()


def test_verify_finds_a_wrong_order_of_quantised_values(tmp_path):
    values = np.array([0.1, 0.2, 0.3, 0.4])
    index = DifficultyIndex.write(
        tmp_path / "x", values, metric="m", dataset_identity=IDENTITY, max_distinct_values=2
    )
    assert index.values.tolist() == [0.2, 0.2, 0.4, 0.4]
    wrong = DifficultyIndex(
        index.path, index.manifest, index.values, np.array([0, 2, 1, 3], dtype=np.uint8)
    )
    with pytest.raises(ValueError, match=r"not sorted by .* at place 2"):
        wrong.verify()


def test_no_distinct_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_distinct_values is 0: at least 1"):
        DifficultyIndex.write(
            tmp_path / "x", [1], metric="m", dataset_identity=IDENTITY, max_distinct_values=0
        )


def test_verify_finds_a_wrong_manifest(index):
    for change, message in (
        ({"max_value": 31}, "smallest and largest value are wrong"),
        ({"dataset": {}}, "another fingerprint"),
    ):
        changed = DifficultyIndex(
            index.path, {**index.manifest, **change}, index.values, index.order
        )
        with pytest.raises(ValueError, match=message):
            changed.verify()


def test_check_dataset_names_the_fields_that_differ(index):
    index.check_dataset(Dataset())
    with pytest.raises(ValueError, match=r"\(sequence_length: expected 8, found 16\); analyze"):
        index.check_dataset(Dataset(sequence_length=16))
    changed = Dataset(files={"corpus.bin": {"num_bytes": 11}}, num_samples=5)
    message = r"files.corpus.bin.num_bytes: expected 10, found 11; samples: expected 4, found 5"
    with pytest.raises(ValueError, match=message):
        index.check_dataset(changed)
    with pytest.raises(ValueError, match="expected None, found 'list'"):
        index.check_dataset([1, 2, 3, 4])


def test_an_index_on_other_storage_is_used_as_one_here(storage, tmp_path):
    values = np.array([30, 10, 20, 10])
    there = DifficultyIndex.write(
        str(storage / "m"), values, metric="m", dataset_identity={"name": "x"}
    )
    here = DifficultyIndex.write(tmp_path / "m", values, metric="m", dataset_identity={"name": "x"})
    assert there.values.tolist() == values.tolist()
    assert (there.place, here.place) == (str(storage / "m"), str(tmp_path / "m"))
    there.verify()
    DifficultyIndex.open(storage / "m", is_checked=False).check_files()
    for name in ("manifest.json", "values.npy", "order.npy"):
        assert (storage / "m" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    with pytest.raises(ValueError, match=r"difficulty index memory://.*/m was made from another"):
        there.check_dataset([1, 2, 3, 4])
