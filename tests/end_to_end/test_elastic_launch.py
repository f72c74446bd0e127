"""A process that is lost: torchrun starts all of them again, and the run ends as if nothing had happened."""

import signal
import uuid

import pytest

from tests.end_to_end.engine_runs import (
    NUM_STEPS,
    finish,
    flags_of,
    log_lines,
    start,
    wait_for_steps,
)
from tests.end_to_end.killing import signal_all

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


def losses_of(folder):
    return {line["step"]: line["loss"] for line in log_lines(folder) if line["kind"] == "train"}


@pytest.mark.parametrize("fsdp", [None, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_process_is_started_again(
    workspace, write_config, one_process, tmp_path, fsdp, rank
):
    mark = uuid.uuid4().hex
    resuming = {"load": tmp_path, "allow_missing_checkpoint": True, "async_save": True}
    flags = flags_of(workspace, write_config(), tmp_path, 2, save_interval=2, fsdp=fsdp, **resuming)
    process = start(flags, 2, restarts=1, ELASTIC=mark)
    wait_for_steps(tmp_path, [process], 7)
    signal_all(signal.SIGKILL, ELASTIC=mark, RANK=str(rank))
    output = finish(process)
    assert "continuing from" in output
    found, expected = losses_of(tmp_path), losses_of(one_process)
    assert list(found) == list(range(1, NUM_STEPS + 1))
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, abs=1e-5)
