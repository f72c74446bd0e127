"""Which samples a run really consumes: after kills, on other numbers of processes, from a blend."""

import random
import time
from collections import Counter

import pytest

from tests.end_to_end.engine_runs import (
    BATCH_SIZE,
    consumed,
    finish,
    flags_of,
    log_lines,
    start_recorded,
    wait_for_steps,
)
from tests.end_to_end.killing import kill_all
from tests.end_to_end.tiny_runs import training_flags, write_two_corpora

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


@pytest.mark.full
def test_a_blend_on_two_processes_resumes_on_one(workspace, tmp_path):
    """Exact proportions and the same samples, whatever the number of processes and the stops."""

    def run(folder, num_processes, attempt, **flags):
        arguments = training_flags(
            workspace,
            data_path=None,
            tokenizer_file=None,
            split="7,3,0",
            micro_batch_size=4 // num_processes,
            save=folder,
            num_workers=2,
            **flags,
        )
        finish(start_recorded(data_path + arguments, folder, num_processes, attempt))

    data_path = ["--data-path", *write_two_corpora(tmp_path)]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, 1, 0, train_iters=30)
    run(parts, 2, 0, train_iters=13)
    run(parts, 1, 1, train_iters=24, load=parts)
    run(parts, 4, 2, train_iters=30, load=parts)
    [expected] = consumed(whole).values()
    attempts = consumed(parts)
    assert [len(attempts[number]) for number in range(3)] == [13, 11, 6]
    assert attempts[0] | attempts[1] | attempts[2] == expected

    num_first = max(1, round(0.7 * 40))  # training samples of the first corpus: 7 of 10 documents
    drawn = Counter(sample < num_first for rows in expected.values() for sample in rows)
    assert drawn[True] == round(0.7 * 30 * BATCH_SIZE) == 168
