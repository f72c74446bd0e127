"""Which streams are cut, and that their pieces are the whole in order."""

import pytest

from data_efficiency.analysis.streams import CountedStream, is_stream, refuse_shuffling, shards_of

datasets = pytest.importorskip("datasets")


@pytest.fixture
def stream(tmp_path):
    """Four files of JSON lines, one of them empty, in the order of their names: 0, 1, 2, ... 8."""
    for number, rows in enumerate(([0, 1, 2], [3], [], [4, 5, 6, 7, 8])):
        lines = "".join(f'{{"x": {row}, "y": 0}}\n' for row in rows)
        (tmp_path / f"part_{number}.jsonl").write_text(lines)
    files = sorted(map(str, tmp_path.glob("*.jsonl")))
    return datasets.load_dataset("json", data_files=files, split="train", streaming=True)


def numbers(rows):
    return [int(row["x"]) for row in rows]


def test_what_is_a_stream(stream):
    assert is_stream(stream)
    assert not is_stream(datasets.Dataset.from_dict({"x": [1]}))
    assert not is_stream([1])


CUT = {
    "as it is": lambda stream: stream,
    "mapped": lambda stream: stream.map(lambda row: {"z": row["x"]}),
    "filtered": lambda stream: stream.filter(lambda row: row["x"] % 2 == 0),
    "columns": lambda stream: stream.select_columns(["x"]),
    "formatted": lambda stream: stream.with_format("numpy"),
}
WHOLE = {
    "batches": lambda stream: stream.map(lambda rows: rows, batched=True, batch_size=2),
    "numbered": lambda stream: stream.map(lambda row, i: {"x": i}, with_indices=True),
    "first rows": lambda stream: stream.take(5),
    "later rows": lambda stream: stream.skip(2),
    "interleaved": lambda stream: datasets.interleave_datasets([stream, stream.skip(3)]),
    "joined": lambda stream: datasets.concatenate_datasets([stream, stream]),
    "repeated": lambda stream: stream.repeat(2),
}


@pytest.mark.parametrize("name", CUT)
def test_shards_are_the_stream_one_after_the_other(stream, name):
    changed = CUT[name](stream)
    shards = shards_of(changed)
    assert len(shards) == 4
    assert [number for shard in shards for number in numbers(shard)] == numbers(changed)


@pytest.mark.parametrize("name", WHOLE)
def test_what_sees_beyond_a_row_is_not_cut(stream, name):
    changed = WHOLE[name](stream)
    assert shards_of(changed) == [changed]


def test_a_dataset_with_places_is_not_cut():
    dataset = datasets.Dataset.from_dict({"x": [1, 2]})
    assert shards_of(dataset) == [dataset]
    one = dataset.to_iterable_dataset()
    assert shards_of(one) == [one]


@pytest.mark.parametrize("name", ["as it is", "interleaved"])
def test_shuffling_is_refused_wherever_it_is(stream, name):
    refuse_shuffling((CUT | WHOLE)[name](stream))
    with pytest.raises(ValueError, match=r"the stream shuffles.*before shuffle\(\)"):
        refuse_shuffling((CUT | WHOLE)[name](stream.shuffle(seed=1)))
    with pytest.raises(ValueError, match="the stream shuffles"):
        CountedStream(stream.shuffle(seed=1))


@pytest.mark.parametrize("name", [*CUT, "batches"])
def test_rows_from_any_place(stream, name):
    changed = (CUT | WHOLE)[name](stream)
    expected = numbers(changed)
    counted = CountedStream(changed)
    assert len(counted) == len(expected)
    assert counted.identity == {"type": "Dataset", "num_samples": len(expected)}
    if name in CUT:
        # The empty file is no shard, nor is the one whose row does not pass.
        assert len(counted.bounds) == (3 if name == "filtered" else 4)
    for first in range(len(expected)):
        for last in range(first, len(expected) + 1):
            assert numbers(counted.rows(first, last)) == expected[first:last]


def test_a_stream_of_nothing(stream):
    with pytest.raises(ValueError, match="the stream has no samples to analyze"):
        CountedStream(stream.filter(lambda row: False))
