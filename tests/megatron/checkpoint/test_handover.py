import threading
import time

import pytest
import torch

from megatron.checkpoint.handover import Handover


def in_a_thread(call, *arguments):
    """A thread that calls it, and a list for what it returns or raises."""
    found = []

    def run():
        try:
            found.append(call(*arguments))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


def test_they_arrive_in_order_and_nobody_runs_ahead_of_the_limit():
    handover = Handover(1)
    given = []

    def give_all():
        for number in range(20):
            handover.give(torch.tensor(number))
            given.append(number)

    thread, _ = in_a_thread(give_all)
    for number in range(20):
        assert int(handover.take()) == number
        time.sleep(0.002)
        # One waits, and the giver may already hold the one after it.
        assert len(given) <= number + 2
    thread.join(10)
    assert len(given) == 20


def test_without_a_limit_nobody_waits():
    handover = Handover(None)
    for number in range(5):
        handover.give(torch.tensor(number))
    assert [int(handover.take()) for _ in range(5)] == [*range(5)]


def test_who_waits_for_a_tensor_that_will_not_come_is_told():
    handover = Handover(1)
    thread, found = in_a_thread(handover.take)
    handover.close()
    thread.join(10)
    assert "could be gathered" in str(found[0])


def test_who_waits_for_room_goes_on_once_nobody_writes():
    handover = Handover(1)
    handover.give(torch.tensor(0))
    thread, found = in_a_thread(handover.give, torch.tensor(1))
    handover.close()
    thread.join(10)
    assert found == [None]
    with pytest.raises(OSError, match="could be gathered"):
        handover.take()
