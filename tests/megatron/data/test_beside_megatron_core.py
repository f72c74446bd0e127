"""Corpora beside those of Megatron-core, which reads, writes and joins them in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from megatron.corpus.merging import merge_corpora
from megatron.corpus.preprocessing import preprocess
from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from tests.megatron.corpus.test_preprocessing import EOD, RECORDS, job_of

MEGATRON_CORE = Path(sys.prefix) / "megatron-core"
PEER = Path(__file__).with_name("megatron_core_peer.py")

pytestmark = pytest.mark.full


class Compared(NamedTuple):
    folder: Path
    ours: IndexedDataset
    """The corpus that preprocessing made."""
    found: dict[str, Any]
    """What Megatron-core reads in it."""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    if not (MEGATRON_CORE / "megatron").is_dir():
        pytest.skip(f"no megatron-core in {MEGATRON_CORE}; `make test-full` installs it there")
    folder = tmp_path_factory.mktemp("corpora")
    job = job_of(folder / "text", num_workers=2, output_prefix=str(folder / "first"))
    preprocess(job)
    for ending in ("bin", "idx", "meta.json"):
        Path(f"{job.corpus_prefix('text')}.{ending}").rename(folder / f"first.{ending}")
    # Documents of several sequences, of none, and an empty sequence.
    with IndexedDatasetWriter(folder / "second", "uint16") as writer:
        writer.add_documents(np.arange(6), [2, 0, 3, 1], [3, 0, 1])
    rows = [[[*record["text"].encode(), EOD]] for record in RECORDS]
    (folder / "rows.json").write_text(json.dumps(rows))
    paths = (MEGATRON_CORE, Path(torch.__file__).parents[1], Path(np.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    # Without site (-S) this project, installed as editable, is not on the path.
    command = [sys.executable, "-S", "-W", "ignore", str(PEER), str(folder)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    return Compared(folder, IndexedDataset(folder / "first"), found)


def assert_same_files(folder, ours, theirs):
    for ending in ("bin", "idx"):
        contents = [(folder / f"{name}.{ending}").read_bytes() for name in (ours, theirs)]
        assert contents[0] == contents[1], ending


def test_their_reader_finds_our_documents(compared):
    assert compared.found["rows"] == [row.tolist() for row in compared.ours]
    assert compared.found["rows"] == [[*record["text"].encode(), EOD] for record in RECORDS]
    assert compared.found["document_indices"] == compared.ours.document_index.tolist()
    assert compared.found["dtype"] == compared.ours.dtype.name


def test_their_builder_writes_the_same_bytes(compared):
    assert_same_files(compared.folder, "first", "built")


def test_merging_gives_the_same_bytes(compared):
    parts = [compared.folder / name for name in ("first", "second")]
    merge_corpora(parts, compared.folder / "ours", with_metadata=False)
    assert_same_files(compared.folder, "ours", "merged")
