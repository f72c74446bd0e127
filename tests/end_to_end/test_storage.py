"""Analysis without a shared disk: workers that have nothing in common but an S3 server, one of them killed."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.files import RemotePath
from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.end_to_end.engine_runs import free_port
from tests.processes import ROOT, run_python

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

OWN_METRIC = """
import time
def sums(batch):
    time.sleep(0.05)
    ends = batch.starts + batch.lengths
    return [int(batch.tokens[a:b].sum()) for a, b in zip(batch.starts, ends)]
"""
FLAGS = ("--seq-length", "4096", "--metric", "own_metric:sums", "--dtype", "int64")
PROGRAM = "from data_efficiency.command import main; raise SystemExit(main())"
FILES = ("manifest.json", "order.npy", "values.npy")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The environment of processes that use a fresh S3 server, which has one bucket."""
    pytest.importorskip("s3fs", reason="needs the extra `full`: make test-full installs it")
    pytest.importorskip("moto.server", reason="needs the extra `full`: make test-full installs it")
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    url = f"http://127.0.0.1:{port}"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"))
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        (folder / "own_metric.py").write_text(OWN_METRIC)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": f"{ROOT}:{folder}",
            "DATA_EFFICIENCY_CACHE": str(folder / "cache"),
        }
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(server, monkeypatch):
    """The bucket, for this process too."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return RemotePath("s3://bucket")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """16 million tokens: four shards."""
    prefix = tmp_path_factory.mktemp("corpus") / "c"
    tokens = (np.random.default_rng(5).random(2**24) ** 3 * 1000).astype(np.uint16)
    with IndexedDatasetWriter(str(prefix), np.dtype("uint16")) as writer:
        writer.add_documents(tokens, np.full(2**10, 2**14, np.int32))
        writer.finish({"vocab_size": 1000})
    return prefix


def command(*words, **settings):
    return run_python("-c", PROGRAM, *words, **settings)


def test_workers_with_nothing_in_common_but_the_server(server, bucket, corpus, tmp_path):
    for ending in ("bin", "idx", "meta.json"):
        (bucket / f"corpora/c.{ending}").put(Path(f"{corpus}.{ending}"))
    work = ("s3://bucket/corpora/c", *FLAGS, "--save", "s3://bucket/d")
    map_words = ("-c", PROGRAM, "map", *work, "--num-workers", "2")
    killed = subprocess.Popen(
        [sys.executable, *map_words, "--worker-id", "0"],
        env=os.environ
        | server
        | {"OMP_NUM_THREADS": "1"}
        | {"DATA_EFFICIENCY_CACHE": str(tmp_path / "worker 0")},
    )
    deadline = time.monotonic() + 120
    while not (first := (bucket / "d").glob("sums.parts/*.json")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [file.name for file in first] == ["000000.json"]
    before = (bucket / "d").versions()
    assert command("reduce", *work, exit_code=1, **server) == "", "shards are missing"
    for worker in "01":
        settings = server | {"DATA_EFFICIENCY_CACHE": str(tmp_path / f"worker {worker}")}
        run_python(*map_words, "--worker-id", worker, "--num-processes", "2", **settings)
    after = (bucket / "d").versions()
    assert len(after) == 8
    assert before.items() <= after.items(), "what the killed worker had finished is kept"
    assert "s3://bucket/d/sums\n" in command("reduce", *work, **server)

    command("analyze", corpus, *FLAGS, "--save", tmp_path / "here", **server)
    assert (bucket / "d").names() == [f"sums/{name}" for name in FILES]
    for name in FILES:
        ours = (tmp_path / "here" / "sums" / name).read_bytes()
        assert (bucket / "d" / "sums" / name).read_bytes() == ours, name
    assert "checksums and order are right" in command("verify", "s3://bucket/d/sums", **server)
    if importlib.util.find_spec("ray") is not None:
        words = ("--executor", "ray", "--num-processes", "2", "--save", "s3://bucket/ray")
        command("analyze", "s3://bucket/corpora/c", *FLAGS, *words, **server)
        for name in FILES:
            first, second = (bucket / folder / "sums" / name for folder in ("d", "ray"))
            assert first.read_bytes() == second.read_bytes(), name


def test_without_credentials(server, tmp_path):
    settings = {name: value for name, value in server.items() if "KEY" not in name}
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, "verify", "s3://bucket/d/sums"],
        env=bare | settings | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: s3://bucket/d/sums/manifest.json: cannot be reached (NoCredent")
    assert "credentials, endpoint and other options are those of the storage's own package" in line
