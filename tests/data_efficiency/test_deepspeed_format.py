"""DeepSpeed's index files beside DeepSpeed itself: its bytes, its sampler, and every broken file."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency.deepspeed_format import (
    CODES,
    Rows,
    export_index,
    own_difficulties,
    read_difficulties,
    read_rows,
    unshuffled,
    write_rows,
)
from data_efficiency.difficulty_index import DifficultyIndex
from tests.processes import run_python

IDENTITY = {"name": "a dataset"}
KINDS = (
    "index_to_metric",
    "index_to_sample",
    "index_to_sample_percentile_merged",
    "sample_to_metric",
)


def write_index(folder, values):
    return DifficultyIndex.write(folder, values, metric="m", dataset_identity=IDENTITY)


@pytest.fixture(scope="module")
def beside_deepspeed(tmp_path_factory):
    """Folder with `values.npy`, our index and export, DeepSpeed's analysis and its sampler's draws."""
    pytest.importorskip("deepspeed.ops", reason="DeepSpeed is not installed", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("beside")
    generator = np.random.default_rng(3)
    # 243 distinct values of 16 bits: not every row of the percentile file joins as many.
    values = generator.integers(0, 300, 1000) ** 2 // 200 + 3
    np.save(folder / "values.npy", values)
    export_index(write_index(folder / "index", values), folder / "exported")
    run_python(Path(__file__).with_name("deepspeed_peer.py"), folder)
    return folder


def test_files_are_those_of_deepspeeds_analyzer_byte_for_byte(beside_deepspeed):
    analyzed, exported = beside_deepspeed / "analyzed" / "m", beside_deepspeed / "exported"
    names = sorted(path.name for path in exported.iterdir())
    assert names == sorted(f"m_{kind}.{ending}" for kind in KINDS for ending in ("bin", "idx"))
    for name in names:
        assert (exported / name).read_bytes() == (analyzed / name).read_bytes(), name


def test_deepspeeds_index_becomes_ours(beside_deepspeed):
    values = np.load(beside_deepspeed / "values.npy")
    difficulties = read_difficulties(beside_deepspeed / "analyzed" / "m", "m")
    assert difficulties.tolist() == values.tolist()
    index = write_index(beside_deepspeed / "imported", difficulties)
    index.verify()
    ours = DifficultyIndex.open(beside_deepspeed / "index")
    assert index.manifest == ours.manifest


@pytest.mark.parametrize("ending", ["", "_percentile_merged"])
def test_paths_of_deepspeeds_json_name_what_its_analyzer_wrote(beside_deepspeed, ending):
    folder, ours = beside_deepspeed / "analyzed" / "m", beside_deepspeed / "index"
    values, source = own_difficulties(
        folder / f"m_index_to_sample{ending}", folder / "m_index_to_metric", trust_order=True
    )
    found = DifficultyIndex.in_memory(
        folder, values, metric="m", dataset_identity=IDENTITY, source=source
    )
    expected = DifficultyIndex.open(ours)
    assert (found.values == expected.values).all()
    assert (found.order == expected.order).all()
    for name in ("num_samples", "min_value", "max_value", "num_distinct_values", "dataset"):
        assert found.manifest[name] == expected.manifest[name]
    checksums = [each.manifest["files"]["values.npy"]["sha256"] for each in (found, expected)]
    assert checksums[0] == checksums[1]


@pytest.mark.parametrize("kind", ["value", "percentile"])
def test_deepspeeds_sampler_draws_from_our_index(beside_deepspeed, kind):
    batches = json.loads((beside_deepspeed / "batches.json").read_text())
    ours = batches[f"exported {kind}"]
    assert ours == batches[f"analyzed {kind}"]
    index = DifficultyIndex.open(beside_deepspeed / "index")
    assert len({number for batch in ours for number in batch}) > 200
    for step, batch in enumerate(ours[:40], start=1):
        fraction = step / 40
        if kind == "value":
            largest = int(fraction * (index.max_value - 1) + 1)
            assert index.values[batch].max() <= largest
        else:
            allowed = index.num_in_percentile(int(fraction * 99 + 1), 100)
            assert np.isin(batch, index.order[:allowed]).all()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-(2**20), 2**40), min_size=1, max_size=300).map(np.array),
    generation=st.sampled_from(["current", "legacy"]),
)
def test_export_and_import_keep_every_value(tmp_path_factory, values, generation):
    folder = tmp_path_factory.mktemp("trip")
    index = write_index(folder / "index", values)
    exported = export_index(index, folder / "exported", generation=generation)
    assert read_difficulties(exported, "m").tolist() == values.tolist()
    merged = read_rows(exported / "m_index_to_sample_percentile_merged")
    assert merged.numbers.tolist() == index.order.tolist()
    num_values = index.num_distinct_values
    assert len(merged.lengths) == -(-num_values // max(1, num_values // 100))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=20).filter(any),
    dtype=st.sampled_from(sorted(CODES["current"])),
    generation=st.sampled_from(["current", "legacy"]),
)
def test_rows_come_back(tmp_path_factory, lengths, dtype, generation):
    prefix = tmp_path_factory.mktemp("rows") / "x"
    rows = Rows(np.arange(sum(lengths), dtype=dtype), np.array(lengths))
    write_rows(prefix, rows, generation=generation)
    found = read_rows(prefix)
    assert found.numbers.dtype == dtype
    assert found.numbers.tolist() == rows.numbers.tolist()
    assert found.lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("generation", "codes"),
    [
        ("current", {"uint8": 1, "int64": 5, "uint16": 6, "uint32": 7, "uint64": 8}),
        ("legacy", {"uint8": 1, "int64": 5, "uint16": 8, "uint32": 9, "uint64": 10}),
    ],
)
def test_type_codes_in_the_file(tmp_path, generation, codes):
    for dtype, code in codes.items():
        rows = Rows(np.arange(3, dtype=dtype), np.array([3]))
        write_rows(tmp_path / dtype, rows, generation=generation)
        assert (tmp_path / f"{dtype}.idx").read_bytes()[17] == code


@pytest.fixture
def exported(tmp_path):
    values = np.arange(600) % 300
    return export_index(write_index(tmp_path / "index", values), tmp_path / "exported")


def change(path, offset, content):
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


IDX, BIN = "m_index_to_sample.idx", "m_index_to_sample.bin"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / BIN).unlink(), "no such file"),
        (lambda f: (f / IDX).write_bytes((f / IDX).read_bytes()[:-1]), "truncated or damaged"),
        (lambda f: change(f / IDX, 17, b"\x0c"), "no integer type of code 12 .unknown"),
        (lambda f: (f / BIN).write_bytes(bytes(1198)), "1198 bytes for 600 numbers"),
        (lambda f: (f / BIN).write_bytes(bytes(4800)), "fits no integer type of code 6"),
        (lambda f: change(f / IDX, 34 + 4 * 300 + 8, b"\x09"), "but the lengths before it end"),
        (lambda f: change(f / IDX, 34 + 4 * 300, b"\x01"), "but the lengths before it end"),
        (lambda f: change(f / BIN, 0, (f / BIN).read_bytes()[2:4]), "not each of 0..599 once"),
        (lambda f: change(f / BIN, 0, b"\xff\xff"), "not each of 0..599 once"),
        (
            lambda f: change(f / "m_index_to_metric.bin", 0, struct.pack("<H", 1)),
            "does not grow from row to row",
        ),
        (
            lambda f: write_rows(
                f / "m_index_to_metric", Rows(np.arange(299), np.ones(299, np.int32))
            ),
            "300 rows, .*_index_to_metric 299",
        ),
    ],
)
def test_broken_files_are_refused(exported, spoil, message):
    spoil(exported)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_difficulties(exported, "m")


def test_a_file_without_numbers_is_refused(tmp_path):
    write_rows(tmp_path / "x", Rows(np.zeros(0, np.int32), np.zeros(1, np.int32)))
    with pytest.raises(ValueError, match="has no numbers"):
        read_rows(tmp_path / "x")


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    real_valued = write_index(tmp_path / "index", np.array([0.5, 0.25]))
    with pytest.raises(ValueError, match="hold integers, not float64: compute the metric as"):
        export_index(real_valued, tmp_path / "exported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]
    too_long = Rows(np.zeros(1, np.int8), np.array([2**31]))
    with pytest.raises(ValueError, match="has at most 2147483647"):
        write_rows(tmp_path / "x", too_long)


def test_a_taken_folder_is_not_overwritten(exported):
    index = DifficultyIndex.open(exported.parent / "index")
    with pytest.raises(FileExistsError, match="already exists"):
        export_index(index, exported)


@settings(max_examples=50)
@given(st.permutations(range(12)))
def test_unshuffled_undoes_a_shuffle(shuffle_index):
    before = np.arange(12) ** 2
    shuffled = before[shuffle_index]
    assert unshuffled(shuffled, np.array(shuffle_index)).tolist() == before.tolist()


@pytest.mark.parametrize("numbers", [[0, 1], [0, 1, 3], [0, 1, 1], [0.0, 1.0, 2.0]])
def test_a_shuffle_index_that_is_no_permutation_is_refused(numbers):
    with pytest.raises(ValueError, match=r"each of 0\.\.2 once"):
        unshuffled(np.arange(3), np.array(numbers))
