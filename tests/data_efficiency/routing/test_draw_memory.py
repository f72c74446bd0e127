import gc

import pytest
import torch

from data_efficiency.routing.draw_memory import DrawMemory, KeptDraw


def draw(step=0, positions=True) -> KeptDraw:
    return KeptDraw(torch.zeros(1, 2, 3) if positions else None, 2, 8, (step, 0))


def test_a_tensor_and_its_detached_twin_are_known_and_a_copy_is_not():
    memory, hidden, known = DrawMemory(), torch.ones(2, 8, 4, requires_grad=True), draw()
    memory.remember(hidden, known)
    assert memory.recall(hidden, needed=True) is known
    assert memory.recall(hidden.detach(), needed=True) is known
    for other in (hidden.clone(), hidden[:1], hidden.transpose(0, 1)):
        assert memory.recall(other, needed=False) is None
        with pytest.raises(RuntimeError, match="of no pending forward"):
            memory.recall(other, needed=True)


def test_a_tensor_of_two_forwards_is_refused_unless_they_keep_the_same():
    memory, hidden = DrawMemory(), torch.ones(2, 8, 4)
    memory.remember(hidden, draw(1))
    memory.remember(hidden, draw(1))
    assert memory.recall(hidden, needed=True).place == (1, 0)
    memory.remember(hidden, draw(2))
    with pytest.raises(RuntimeError, match="two forwards with different"):
        memory.recall(hidden, needed=True)
    whole = torch.ones(2, 8, 4)
    for step in (1, 2):
        memory.remember(whole, draw(step, positions=False))
    assert memory.recall(whole, needed=True).positions is None
    memory.remember(whole, draw(3))
    with pytest.raises(RuntimeError, match="two forwards with different"):
        memory.recall(whole, needed=True)


def test_nothing_is_kept_alive_and_what_is_gone_is_forgotten():
    memory = DrawMemory()
    hidden = torch.ones(2, 8, 4)
    memory.remember(hidden, draw())
    alive = torch.ones(2, 8, 4)
    memory.remember(alive, draw())
    del hidden
    gc.collect()
    memory.forget_the_gone()
    assert len(memory._known) == 1
    # It may lie where the other one lay.
    again = torch.ones(2, 8, 4)
    assert memory.recall(again, needed=False) is None
    assert memory.recall(alive, needed=True) is not None
