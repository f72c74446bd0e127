import sys

import pytest
import torch

from data_efficiency.routing.router import Router
from data_efficiency.routing.token_ops import sample_kept_positions
from data_efficiency.schedule import CustomSchedule, RootSchedule

CPU = torch.device("cpu")


def make_router() -> Router:
    schedule = RootSchedule(
        min_difficulty=4, max_difficulty=16, total_curriculum_step=10, difficulty_step=4
    )
    return Router(schedule, num_layers=2, seed=5)


def test_kept_length_follows_the_schedule():
    router = make_router()
    assert [router.kept_length(step) for step in (0, 3, 4, 7, 10, 99)] == [4, 4, 8, 12, 16, 16]


def test_all_layers_are_drawn_at_the_position_that_was_set():
    router = make_router()
    router.set_position(4, 6)
    router.begin_forward(3, 12, CPU)
    expected = sample_kept_positions(
        seed=5,
        step=4,
        first_row=6,
        num_rows=3,
        num_layers=2,
        sequence_length=12,
        kept_length=8,
        device=CPU,
    )
    assert router.positions is not None
    assert torch.equal(router.positions, expected)
    assert (router.num_rows, router.sequence_length) == (3, 12)


def test_no_generator_is_touched():
    router = make_router()
    before = torch.get_rng_state()
    router.set_position(0, 0)
    router.begin_forward(3, 12, CPU)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sequence_length", [8, 7])
def test_nothing_is_drawn_when_the_whole_sequence_is_kept(sequence_length, monkeypatch):
    router = make_router()
    router.set_position(0, 0)
    router.begin_forward(2, 12, CPU)
    monkeypatch.setattr("data_efficiency.routing.router.sample_kept_positions", None)
    router.set_position(4, 0)
    router.begin_forward(2, sequence_length, CPU)
    assert router.positions is None


def test_the_length_is_marked_dynamic_where_a_compiler_is_loaded(monkeypatch):
    marked = []

    class Compiler:
        @staticmethod
        def maybe_mark_dynamic(tensor, axis):
            marked.append((tensor.shape, axis))

    monkeypatch.setitem(sys.modules, "torch._dynamo", Compiler)
    router = make_router()
    router.set_position(0, 0)
    router.begin_forward(3, 12, CPU)
    assert marked == [((2, 3, 4), 2)]


def test_each_forward_needs_a_position_of_its_own():
    router = make_router()
    with pytest.raises(RuntimeError, match="set_position"):
        router.begin_forward(2, 12, CPU)
    router.set_position(0, 0)
    router.begin_forward(2, 12, CPU)
    with pytest.raises(RuntimeError, match="set_position"):
        router.begin_forward(2, 12, CPU)


@pytest.mark.parametrize("place", [(-1, 0), (0, -1)])
def test_positions_are_not_negative(place):
    with pytest.raises(ValueError, match="must not be negative"):
        make_router().set_position(*place)


def test_a_schedule_that_keeps_nothing_is_refused():
    router = Router(CustomSchedule(function=lambda step: 0), num_layers=1, seed=0)
    with pytest.raises(ValueError, match="gives 0 tokens at step 3"):
        router.kept_length(3)
