"""Which samples a run really consumes after kills, on other numbers of processes."""

import random
import time

import pytest

from tests.end_to_end.engine_runs import (
    consumed,
    finish,
    flags_of,
    log_lines,
    start_recorded,
    wait_for_steps,
)
from tests.end_to_end.killing import kill_all

NUM_STEPS = 40


def composed(workspace, config, folder, num_processes):
    return flags_of(
        workspace,
        config,
        folder,
        num_processes,
        train_iters=NUM_STEPS,
        save_interval=3,
        load=folder,
        allow_missing_checkpoint=True,
    )


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_five_kills_on_changing_numbers_of_processes(workspace, composed_config, tmp_path, seed):
    """Every attempt consumes what the unbroken run does at the same step; losses are its own, too."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start_recorded(composed(workspace, composed_config, whole, 1), whole, 1, 0))
    [expected] = consumed(whole).values()
    assert sorted(expected) == list(range(1, NUM_STEPS + 1))

    generator = random.Random(seed)
    target = 0
    for attempt, num_processes in enumerate([1, 2, 1, 2, 4]):
        flags = composed(workspace, composed_config, broken, num_processes)
        process = start_recorded(flags, broken, num_processes, attempt)
        target += generator.randint(4, 7)
        wait_for_steps(broken, [process], target)
        time.sleep(generator.random() / 10)
        kill_all(ATTEMPT=str(attempt), RECORDS=str(broken / "records"))
        process.communicate()
    finish(start_recorded(composed(workspace, composed_config, broken, 2), broken, 2, 5))

    attempts = consumed(broken)
    assert len(attempts) == 6
    for steps in attempts.values():
        for step, samples in steps.items():
            assert samples == expected[step], step
    assert set().union(*attempts.values()) == set(expected)
    assert max(attempts[5]) == NUM_STEPS > len(attempts[5])
    found, wanted = (
        [line["loss"] for line in log_lines(folder) if line["kind"] == "train"]
        for folder in (broken, whole)
    )
    assert found == pytest.approx(wanted, abs=1e-4)
