"""A model of the user's own whose processes share each row is refused, whoever splits the rows."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data_efficiency.small_models import LENGTH
from tests.processes import run_python

WORKER = Path(__file__).with_name("sequence_parallel_worker.py")


@pytest.mark.parametrize(
    ("rows", "kept", "length", "message"),
    [
        # Half a row is no longer than what is kept: nothing would be dropped, and half counted.
        ("whole", 6, LENGTH, r"processes seem to share each row .*SharedLayer"),
        pytest.param(
            *("whole", 3, LENGTH, r"processes seem to share each row .*SharedLayer"),
            marks=pytest.mark.full,
        ),
        # Six tokens and five.
        ("whole", 3, LENGTH - 1, r"processes seem to share each row .*SharedLayer"),
        ("split", 5, LENGTH, r"SharedLayer may not drop tokens"),
    ],
)
def test_shared_rows_are_refused(rows, kept, length, message):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(
            lambda rank: run_python(WORKER, rows, kept, length, RANK=str(rank), **places), "01"
        )
    assert all(re.search(message, one) for one in said)
