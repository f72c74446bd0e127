"""The same bytes however the work is cut, and nothing wrong is ever used."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.analysis import map_reduce
from data_efficiency.analysis.accumulated_value import AccumulatedValue
from data_efficiency.analysis.dataset_reader import ItemReader, TokenSpanReader
from data_efficiency.analysis.executors import InProcessExecutor, LocalProcessExecutor
from data_efficiency.analysis.map_reduce import AnalysisError, MapReduce, executor_for
from data_efficiency.analysis.metrics import Metric, count_tokens, total_vocab_freq
from data_efficiency.difficulty_index import DifficultyIndex


def token_sums(batch):
    """Sum of each sample's token numbers."""
    sums = np.concatenate([[0], np.cumsum(batch.tokens, dtype=np.int64)])
    return sums[batch.starts + batch.lengths] - sums[batch.starts]


def sums_metric(function=token_sums, **changes):
    return Metric(name="sums", kind="single_value_per_sample", function=function, **changes)


def items_metric(name, function=lambda batch: batch):
    return Metric(name=name, kind="single_value_per_sample", function=function, reads="items")


def expected_sums(dataset):
    return [int(dataset[sample].sum()) for sample in range(len(dataset))]


def checksums(folder):
    """Name and SHA-256 of all files below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in Path(folder).rglob("*")
        if file.is_file()
    }


def run(reader, metrics, folder, executor=None, **options):
    job = MapReduce(reader, metrics, folder, **options)
    job.run_map(executor or InProcessExecutor())
    return job.run_reduce()


METRICS = [sums_metric(), total_vocab_freq(60)]


@pytest.mark.parametrize("num_workers", [1, 2, 7])
@pytest.mark.parametrize("num_processes", [1, 3])
@pytest.mark.parametrize("num_shards", [1, 5, 60])
def test_same_bytes_for_any_division(
    tmp_path, windows, small_batches, num_workers, num_processes, num_shards
):
    job = MapReduce(small_batches(windows), METRICS, tmp_path / "a", num_shards=num_shards)
    for worker in reversed(range(num_workers)):
        job.run_map(executor_for(num_processes), worker, num_workers)
    results = job.run_reduce()
    assert results["sums"].values.tolist() == expected_sums(windows)
    results["sums"].verify()
    everything = windows.token_spans(0, len(windows))
    counts = count_tokens(type(next(small_batches(windows).batches(0, 1)).content)(*everything), 60)
    assert results["total_vocab_freq"].value.tolist() == counts.tolist()
    run(TokenSpanReader(windows), METRICS, tmp_path / "b")
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")
    assert all(len(list((tmp_path / "a" / name).iterdir())) <= 5 for name in results)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["sums", "total_vocab_freq"]


def test_spawned_processes(tmp_path):
    """Nothing but plain functions and data is handed to them."""
    metric = items_metric("x", np.abs)
    reader = ItemReader(np.arange(-9, 0), batch_size=2, collate_fn=np.array)
    executor = LocalProcessExecutor(1, start_method="spawn")
    result = run(reader, [metric], tmp_path, executor, num_shards=2)["x"]
    assert result.values.tolist() == list(range(9, 0, -1))


def test_only_what_is_missing_is_computed(tmp_path, windows):
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], tmp_path, num_shards=10)
    job.run_map(InProcessExecutor(), 0, 2)
    parts = tmp_path / "sums.parts"
    (parts / "000003.json").unlink()
    before = {file.name: file.stat().st_mtime_ns for file in parts.iterdir()}
    with pytest.raises(AnalysisError, match=r"metric sums, 6 of 10 shards cannot be used: shard 3"):
        job.run_reduce()
    job.run_map(InProcessExecutor())
    after = {file.name: file.stat().st_mtime_ns for file in parts.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {
        f"00000{shard}.{kind}" for shard in (0, 1, 2, 4) for kind in ("json", "npy")
    }
    assert job.run_reduce()["sums"].values.tolist() == expected_sums(windows)


def test_damaged_shard_is_named_and_then_mended(tmp_path, windows, caplog):
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], tmp_path, num_shards=4)
    job.run_map(InProcessExecutor())
    file = tmp_path / "sums.parts" / "000002.npy"
    file.write_bytes(file.read_bytes()[:-100])
    message = r"1 of 4 shards .* shard 2 \(samples 250..374\) has a damaged array .* run the map"
    with pytest.raises(AnalysisError, match=message):
        job.run_reduce()
    assert not (tmp_path / "sums").exists()
    job.run_map(InProcessExecutor())
    assert "sums: shard 2 (samples 250..374) has a damaged array" in caplog.text
    assert job.run_reduce()["sums"].values.tolist() == expected_sums(windows)


def test_function_that_changed_is_noticed(tmp_path, windows, caplog):
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], tmp_path, num_shards=4)
    job.run_map(InProcessExecutor(), 0, 2)

    def changed(batch):
        return token_sums(batch) + 1

    other = MapReduce(TokenSpanReader(windows), [sums_metric(changed)], tmp_path, num_shards=4)
    message = r"shard 0 \(samples 0..124\) was made from another function \(its source changed\)"
    with pytest.raises(AnalysisError, match=message):
        other.run_reduce()
    other.run_map(InProcessExecutor())
    assert "sums: shard 0 (samples 0..124) was made from another function" in caplog.text
    values = other.run_reduce()["sums"].values
    assert values.tolist() == [value + 1 for value in expected_sums(windows)]


def test_killed_worker_is_reported_and_the_rest_is_kept(tmp_path, windows, small_batches):
    """The metric kills its process at sample 250, once."""

    def deadly(batch):
        if batch.tokens[0] == 61 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return token_sums(batch)

    windows.tokens[250 * 16] = 61
    reader = TokenSpanReader(windows, tokens_per_batch=7 * 17)
    message = r"sums: shard 5 \(samples 250..299\) failed: its process was killed by SIGKILL; "
    job = MapReduce(reader, [sums_metric(deadly)], tmp_path / "a", num_shards=10)
    with pytest.raises(
        AnalysisError, match=message + r"\d of 10 shards are kept in .*run the same"
    ):
        job.run_map(LocalProcessExecutor(2))
    assert (tmp_path / "killed").exists()
    kept = checksums(tmp_path / "a" / "sums.parts")
    assert len(kept) >= 10
    times = {name: (tmp_path / "a" / "sums.parts" / name).stat().st_mtime_ns for name in kept}
    job.run_map(LocalProcessExecutor(2))
    for name, written in times.items():
        assert (tmp_path / "a" / "sums.parts" / name).stat().st_mtime_ns == written
    job.run_reduce()
    run(reader, [sums_metric()], tmp_path / "b")
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")


def fails_on_61(what):
    """What `what` makes of a flag for each sample: whether it starts with token 61."""

    def function(batch):
        is_bad = batch.tokens[batch.starts] == 61
        return what(is_bad.astype(np.int64))

    return function


@pytest.mark.parametrize("executor", [InProcessExecutor(), LocalProcessExecutor(2)])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda bad: np.where(bad, np.nan, 1.0), "the value for sample 250 is nan"),
        (lambda bad: np.zeros(len(bad) - bad.sum()), r"an array of shape \(0,\)"),
        (lambda bad: 1 // (1 - int(bad.max())) + bad, "ZeroDivisionError"),
        (lambda bad: 300 * bad, "sample 250 is 300: no finite uint8"),
    ],
)
def test_bad_metric_is_named_with_shard_and_sample(tmp_path, windows, executor, what, message):
    windows.tokens[250 * 16] = 61
    metric = sums_metric(fails_on_61(what), dtype="uint8")
    job = MapReduce(TokenSpanReader(windows), [metric], tmp_path / "x", num_shards=2)
    message = (
        r"sums: shard 1 \(samples 250..499\) failed: metric sums, sample 250: "
        rf".*{message}.*; 1 of 2 shards are kept in"
    )
    with pytest.raises(AnalysisError, match=message):
        job.run_map(executor)
    kept = (tmp_path / "x" / "sums.parts").glob("*.npy")
    assert [file.name for file in kept] == ["000000.npy"]


def test_a_first_shard_that_fails_leaves_nothing(tmp_path, windows):
    metric = sums_metric(lambda batch: np.array(["x"] * len(batch.starts)))
    with pytest.raises(AnalysisError, match="sample 0: .*has <U1 values.*; no shard was finished"):
        MapReduce(TokenSpanReader(windows), [metric], tmp_path).run_map(InProcessExecutor())
    assert list(tmp_path.iterdir()) == []


def test_batches_that_fail_only_together_are_named(tmp_path, windows):
    metric = sums_metric(lambda batch: np.zeros(min(1, len(batch.starts))))
    with pytest.raises(AnalysisError, match=r"metric sums, samples 0..499: ValueError: an array"):
        MapReduce(TokenSpanReader(windows), [metric], tmp_path).run_map(InProcessExecutor())


def test_sum_beyond_its_dtype_is_named_in_the_reduce(tmp_path, windows):
    metric = Metric(
        name="count",
        kind="accumulate_value_over_samples",
        function=lambda batch: np.array([len(batch.starts)]),
        dtype="uint8",
    )
    job = MapReduce(TokenSpanReader(windows), [metric], tmp_path, num_shards=5)
    job.run_map(InProcessExecutor())
    with pytest.raises(AnalysisError, match="metric count: the sum at place 0 is 500: no finite"):
        job.run_reduce()


def test_finished_results_are_replaced_on_request_only(tmp_path, windows):
    reader = TokenSpanReader(windows)
    run(reader, [sums_metric()], tmp_path)
    with pytest.raises(FileExistsError, match="sums already exists; remove it, ask to overwrite"):
        MapReduce(reader, [sums_metric()], tmp_path).run_map(InProcessExecutor())
    negative = sums_metric(lambda batch: -token_sums(batch))
    stale = MapReduce(reader, [sums_metric()], tmp_path, overwrite=True)
    stale.run_map(InProcessExecutor())
    result = run(reader, [negative], tmp_path, overwrite=True)["sums"]
    assert result.values.tolist() == [-value for value in expected_sums(windows)]
    assert [path.name for path in tmp_path.iterdir()] == ["sums"]


def test_interrupted_reduce_goes_on(tmp_path, windows, monkeypatch):
    """The first result is there and its shards too: the same work, not somebody else's."""
    job = MapReduce(TokenSpanReader(windows), METRICS, tmp_path)
    job.run_map(InProcessExecutor())
    write = AccumulatedValue.write

    def fail(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(AccumulatedValue, "write", fail)
    message = "metric total_vocab_freq: No space left .* all shards are kept in .* run the reduce"
    with pytest.raises(AnalysisError, match=message):
        job.run_reduce()
    assert DifficultyIndex.open(tmp_path / "sums").num_samples == 500
    monkeypatch.setattr(AccumulatedValue, "write", write)
    (tmp_path / ".sums.0123.partial").mkdir()
    job.run_map(InProcessExecutor())
    job.run_reduce()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sums", "total_vocab_freq"]


@contextmanager
def locked_by_another_process(file):
    """Holds a lock of the analysis in a process of its own."""
    code = "import pathlib, sys; from data_efficiency.files.lock import file_lock\n"
    code += "with file_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(file)], **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        yield
        process.kill()


def test_two_divisions_of_the_work_at_once_are_refused(tmp_path, windows):
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], tmp_path, num_shards=4)
    with locked_by_another_process(tmp_path / ".map_0_of_2.lock"):
        message = r"process \d+ on .* is at work on .* \(.map_0_of_2.lock\); wait for it or stop it"
        with pytest.raises(BlockingIOError, match=message):
            job.run_map(InProcessExecutor(), 0, 1)
        with pytest.raises(BlockingIOError, match=message):
            job.run_reduce()
        job.run_map(InProcessExecutor(), 1, 2)
    with locked_by_another_process(tmp_path / ".reduce.lock"):
        with pytest.raises(BlockingIOError, match=r"reduce.lock"):
            job.run_reduce()
        with pytest.raises(BlockingIOError, match=r"reduce.lock"):
            job.run_map(InProcessExecutor(), 0, 2)
    job.run_map(InProcessExecutor(), 0, 2)
    assert job.run_reduce()["sums"].values.tolist() == expected_sums(windows)


def test_full_disk_in_the_map(small_disk, make_windows):
    windows = make_windows(5000)
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], small_disk, num_shards=10)
    message = (
        r"sums: shard (\d) \(samples .*\) failed: metric sums: .*No space left .*; "
        r"\1 of 10 shards are kept in .*; run the same again"
    )
    with pytest.raises(AnalysisError, match=message):
        job.run_map(InProcessExecutor())
    kept = {file: file.stat().st_mtime_ns for file in small_disk.glob("sums.parts/*")}
    assert len(kept) >= 2
    assert not [file for file in kept if file.suffix == ".partial"]
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    job.run_map(InProcessExecutor())
    assert all(file.stat().st_mtime_ns == written for file, written in kept.items())
    assert job.run_reduce()["sums"].values.tolist() == expected_sums(windows)


def test_full_disk_in_the_reduce(small_disk, make_windows):
    windows = make_windows(5000)
    job = MapReduce(
        TokenSpanReader(windows), [sums_metric(dtype="uint16")], small_disk, num_shards=4
    )
    job.run_map(InProcessExecutor())
    disk = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes((disk.f_bavail - 2) * disk.f_bsize))
    with pytest.raises(AnalysisError, match=r"metric sums: .*; all shards are kept in .*"):
        job.run_reduce()
    assert sorted(file.name for file in small_disk.iterdir()) == ["filler", "sums.parts"]
    filler.unlink()
    assert job.run_reduce()["sums"].values.tolist() == expected_sums(windows)


def test_sample_order_is_applied_in_the_reduce(tmp_path):
    order = np.random.default_rng(0).permutation(50)
    metric = items_metric("x")
    job = MapReduce(ItemReader(order, batch_size=7), [metric], tmp_path, num_shards=3)
    job.run_map(InProcessExecutor())
    result = job.run_reduce(order)["x"]
    assert result.values.tolist() == list(range(50)), "item i is the number of sample i"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([], "no metric is given"),
        ([sums_metric(), sums_metric()], "metric sums is given twice"),
        ([sums_metric(reads="items")], "metric sums reads items, the reader delivers token_spans"),
        ([sums_metric(dtype="bool")], "metric dtype 'bool'"),
        ([Metric(name="a/b", kind="single_value_per_sample", function=len)], "name 'a/b' cannot"),
        ([Metric(name="..", kind="single_value_per_sample", function=len)], "name '..' cannot"),
        ([Metric(name="m", kind="sum", function=len)], "metric m is of kind 'sum'"),
    ],
)
def test_metrics_that_do_not_fit(tmp_path, windows, metrics, message):
    with pytest.raises(ValueError, match=message):
        MapReduce(TokenSpanReader(windows), metrics, tmp_path)


STOPPABLE = """
import sys, time
import numpy as np
from data_efficiency.analysis.dataset_reader import ItemReader
from data_efficiency.analysis.map_reduce import MapReduce, executor_for
from data_efficiency.analysis.metrics import Metric

def slow(batch):
    time.sleep(0.05)
    return batch

metric = Metric(name="slow", kind="single_value_per_sample", function=slow, reads="items")
job = MapReduce(ItemReader(np.arange(200)), [metric], sys.argv[1], num_shards=50)
try:
    job.run_map(executor_for(int(sys.argv[2])))
    job.run_reduce()
except KeyboardInterrupt as error:
    print(error)
    sys.exit(130)
"""


@pytest.mark.parametrize("num_processes", ["1", "2"])
def test_signals_stop_cleanly_and_a_second_run_is_kept_out(tmp_path, num_processes):
    command = [sys.executable, "-c", STOPPABLE, str(tmp_path / "a"), num_processes]
    tmp_path = tmp_path / "a"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("slow.parts/*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        second = MapReduce(
            ItemReader(np.arange(200)),
            [items_metric("y", abs)],
            tmp_path,
        )
        with pytest.raises(BlockingIOError, match=f"process {first.pid} on .* is at work on"):
            second.run_map(InProcessExecutor())
        first.send_signal(signal.SIGTERM if num_processes == "1" else signal.SIGINT)
        output, errors = first.communicate()
    assert first.returncode == 130
    assert "Traceback" not in errors, "workers go without a word"
    assert "slow: stopped; " in output
    assert "of 50 shards are kept in" in output
    assert {file.suffix for file in (tmp_path / "slow.parts").iterdir()} == {".json", ".npy"}
    metric = items_metric("slow")
    result = run(ItemReader(np.arange(200)), [metric], tmp_path, num_shards=50)["slow"]
    assert result.values.tolist() == list(range(200))


def test_same_bytes_on_other_storage(storage, tmp_path, windows, small_batches):
    """Two workers' parts, what is missing computed again, and nothing left but the results."""
    run(TokenSpanReader(windows), METRICS, tmp_path / "here")
    job = MapReduce(small_batches(windows), METRICS, str(storage / "there"), num_shards=5)
    job.run_map(InProcessExecutor())
    job.folders["sums"].remove(3)
    with pytest.raises(AnalysisError, match=r"metric sums, 1 of 5 shards cannot be used: shard 3"):
        job.run_reduce()
    job.run_map(InProcessExecutor())
    results = job.run_reduce()
    assert results["sums"].values.tolist() == expected_sums(windows)
    assert results["sums"].place == str(storage / "there" / "sums")
    assert checksums(tmp_path / "here") == {
        name: hashlib.sha256((storage / "there" / name).read_bytes()).hexdigest()
        for name in (storage / "there").names()
    }
    with pytest.raises(FileExistsError, match=r"memory://.*/sums already exists; remove it, ask"):
        MapReduce(TokenSpanReader(windows), METRICS, storage / "there").run_map(InProcessExecutor())


def test_a_reduce_killed_on_other_storage_goes_on(storage, windows, monkeypatch):
    """Whatever file it had put last: what is there is no result yet, and the shards are."""
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], storage, num_shards=3)
    put = type(storage).put
    for name in ("order.npy", "values.npy", "manifest.json"):
        job.run_map(InProcessExecutor())

        def stop(path, file, name=name):
            if path.name == name:
                raise KeyboardInterrupt
            put(path, file)

        monkeypatch.setattr(type(storage), "put", stop)
        with pytest.raises(KeyboardInterrupt):
            job.run_reduce()
        with pytest.raises(FileNotFoundError):
            DifficultyIndex.open(storage / "sums")
        monkeypatch.setattr(type(storage), "put", put)
    job.run_map(InProcessExecutor())
    assert job.run_reduce()["sums"].values.tolist() == expected_sums(windows)
    assert len(storage.names()) == 3


def test_memory_is_seen_by_one_process_alone(storage, windows):
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], storage, num_shards=2)
    for executor, num_workers in ((LocalProcessExecutor(1), 1), (InProcessExecutor(), 2)):
        with pytest.raises(ValueError, match="memory://.* is seen by one process alone: work with"):
            job.run_map(executor, 0, num_workers)


class FarAwayExecutor:
    """One whose workers write to disks of their own."""

    def run(self, task, items):
        yield from ()


def test_shards_on_another_machine_s_disk_are_noticed(tmp_path, windows, monkeypatch):
    monkeypatch.setattr(map_reduce, "SECONDS_TO_APPEAR", 0.2)
    job = MapReduce(TokenSpanReader(windows), [sums_metric()], tmp_path, num_shards=4)
    message = r"metric sums: 4 shards, such as shard 0 .*, were computed, but are not in .* share"
    with pytest.raises(AnalysisError, match=message):
        job.run_map(FarAwayExecutor())


def test_no_process_at_all_is_refused():
    with pytest.raises(ValueError, match="number of processes is 0: at least 1"):
        executor_for(0)
