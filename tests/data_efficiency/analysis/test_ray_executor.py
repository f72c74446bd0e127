"""A real Ray cluster of two nodes with one worker each: the same bytes, whoever dies."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.analysis.dataset_reader import ItemReader
from data_efficiency.analysis.executors import InProcessExecutor
from data_efficiency.analysis.map_reduce import AnalysisError, MapReduce, executor_for
from data_efficiency.analysis.metrics import Metric
from data_efficiency.analysis.ray_executor import MAX_RETRIES, RayExecutor

NUM_SAMPLES, NUM_SHARDS = 60, 12


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes with a CPU each, to which this process is connected."""
    ray = pytest.importorskip("ray", reason="needs the extra `full`: make test-full installs it")
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, configure_logging=False, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def slow_metric(folder=None, failing=None, dying=None):
    """Squares of the samples; a mark in a folder for each process and node that is at work."""

    def squares(batch):
        if folder is not None:
            node = os.environ.get("RAY_RAYLET_PID", "none")
            (Path(folder) / f"{os.getpid()}.{node}").touch()
        time.sleep(0.1)
        if failing is not None and failing in batch.tolist():
            raise ValueError("no such word")
        if dying is not None and dying in batch.tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        return batch**2

    return Metric(
        name="squares",
        kind="single_value_per_sample",
        function=squares,
        reads="items",
        parameters={"what": "squares"},
    )


def job_in(folder, metric):
    reader = ItemReader(np.arange(NUM_SAMPLES), batch_size=1, collate_fn=np.array)
    return MapReduce(reader, [metric], folder, num_shards=NUM_SHARDS)


def checksums(folder):
    return {
        file.relative_to(folder): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.full
def test_a_worker_is_killed_and_the_index_is_the_same(cluster, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    job = job_in(tmp_path / "ray", slow_metric(marks))
    killed = []

    def kill_one():
        while len(list(marks.iterdir())) < 2:
            time.sleep(0.02)
        killed.append(int(min(marks.iterdir()).name.partition(".")[0]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    job.run_map(RayExecutor())
    killer.join()
    job.run_reduce()
    places = [mark.name.split(".") for mark in marks.iterdir()]
    assert len({node for _, node in places}) == 2, "both nodes were at work"
    assert len(places) >= 3, "another process took the killed one's place"
    assert str(os.getpid()) not in {process for process, _ in places}
    here = job_in(tmp_path / "here", slow_metric())
    here.run_map(InProcessExecutor())
    here.run_reduce()
    assert checksums(tmp_path / "ray") == checksums(tmp_path / "here")


@pytest.mark.full
def test_a_failure_is_named_and_what_is_finished_is_used_again(cluster, tmp_path):
    message = (
        r"squares: shard 4 \(samples 20..24\) failed: metric squares, sample 22: ValueError: no such "
        r"word; \d+ of 12 shards are kept in .*; run the same again to continue"
    )
    with pytest.raises(AnalysisError, match=message) as caught:
        job_in(tmp_path / "d", slow_metric(failing=22)).run_map(RayExecutor(2))
    assert "in squares" in caught.value.__cause__.__notes__[0]
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "d").rglob("*.json")}
    # Shard 3 ran beside it, and nothing behind shard 5 was begun.
    assert (
        {"000000.json", "000003.json"}
        <= {file.name for file in kept}
        <= {f"00000{shard}.json" for shard in (0, 1, 2, 3, 5)}
    )
    again = job_in(tmp_path / "d", slow_metric())
    again.run_map(RayExecutor(2))
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert again.run_reduce()["squares"].values.tolist() == [i**2 for i in range(NUM_SAMPLES)]


@pytest.mark.full
def test_what_kills_every_process_is_given_up(cluster, tmp_path):
    message = rf"shard 1 .* failed: Ray has lost it {1 + MAX_RETRIES} times \(WorkerCrashedError: "
    with pytest.raises(AnalysisError, match=message):
        job_in(tmp_path, slow_metric(dying=7)).run_map(RayExecutor(1))
    assert {file.name for file in tmp_path.rglob("*.json")} == {"000000.json"}


@pytest.mark.full
def test_a_lost_machine(cluster, tmp_path):
    """Its items are run on the other one."""
    node = cluster.add_node(num_cpus=1)
    marks = tmp_path / "marks"
    marks.mkdir()

    def lose():
        while len({mark.name.split(".")[1] for mark in marks.iterdir()}) < 3:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    loser = threading.Thread(target=lose)
    loser.start()
    job = job_in(tmp_path / "d", slow_metric(marks))
    job.run_map(RayExecutor(3))
    loser.join()
    assert job.run_reduce()["squares"].values.tolist() == [i**2 for i in range(NUM_SAMPLES)]


DRIVER = """
import sys
from data_efficiency.command import main
sys.exit(main())
"""


@pytest.mark.full
def test_the_command_on_a_cluster_of_its_own_is_killed_and_goes_on(cluster, tmp_path):
    """And the cluster is told by RAY_ADDRESS."""
    pytest.importorskip("datasets").Dataset.from_dict({"x": list(range(4096))}).save_to_disk(
        str(tmp_path / "saved")
    )
    (tmp_path / "own_metric.py").write_text(
        "import time\ndef double(batch):\n    time.sleep(0.1)\n    return batch['x'] * 2\n"
    )
    words = [sys.executable, "-c", DRIVER, "map", str(tmp_path / "saved"), "--save"]
    words += [str(tmp_path / "d"), "--metric", "own_metric:double", "--reads", "items"]
    words += ["--dtype", "int64", "--executor", "ray"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "RAY_ADDRESS": cluster.address}
    hidden = "import sys; sys.path.append(sys.argv.pop(1))"
    lost = [*words[:2], f"{hidden}\n{DRIVER}", str(tmp_path), *words[3:]]
    ended = subprocess.run(lost, env=environment, capture_output=True, text=True)
    assert "a worker of the cluster could not begin with it (" in ended.stderr
    assert "No module named 'own_metric'" in ended.stderr
    environment["PYTHONPATH"] += f":{tmp_path}"
    with subprocess.Popen(words, env=environment) as driver:
        while not list(tmp_path.rglob("*.parts/*.json")):
            assert driver.poll() is None
            time.sleep(0.02)
        driver.kill()
    time.sleep(1)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parts/*.json")}
    assert 1 <= len(kept) < 4
    subprocess.run(words, env=environment, check=True)
    markers = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parts/*.json")}
    assert len(markers) == 4
    assert kept.items() <= markers.items()


@pytest.mark.full
def test_nothing_to_do(cluster):
    assert list(RayExecutor().run(None, [])) == []


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'data-efficiency\[ray\]'"):
        executor_for(2, "ray")
    with pytest.raises(ValueError, match="number of processes is 0: at least 1 is needed"):
        executor_for(0, "ray")
    with pytest.raises(ValueError, match="executor is 'spark': one of processes, ray"):
        executor_for(2, "spark")
