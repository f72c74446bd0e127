import sys
from dataclasses import replace

import pytest
import torch

from data_efficiency.accounting import layer_tokens
from data_efficiency.config import RoutingConfig
from data_efficiency.routing.router import Router
from data_efficiency.routing.token_ops import sample_kept_positions
from data_efficiency.schedule import CustomSchedule, RootSchedule
from tests.data_efficiency.small_models import dropping

CPU = torch.device("cpu")
LINE = RootSchedule(
    min_difficulty=4, max_difficulty=16, total_curriculum_step=10, difficulty_step=4
)
SETTINGS = dropping(total_layer_num=3, random_ltd_layer_id=(0, 1), schedule=LINE, seed=5)


def make_router(**changes) -> Router:
    return Router(RoutingConfig(num_layers=3, random_ltd=replace(SETTINGS, **changes)))


def forward(router, num_rows, sequence_length, place=(0, 0)):
    router.set_position(*place)
    router.begin_forward(num_rows, sequence_length, CPU)


def constant(value: int) -> CustomSchedule:
    return CustomSchedule(function=lambda step: value)


def test_kept_length_follows_the_schedule():
    router = make_router()
    assert [router.kept_length(step) for step in (0, 3, 4, 7, 10, 99)] == [4, 4, 8, 12, 16, 16]


def test_kept_length_in_percent_of_the_sequence():
    router = make_router(kept_length_unit="percent", schedule=constant(30))
    assert [router.kept_length(0, length) for length in (10, 11, 13, 1)] == [3, 3, 3, 1]
    with pytest.raises(ValueError, match="in percent: sequence_length is needed"):
        router.kept_length(0)
    forward(router, 2, 20)
    assert router.positions.shape == (2, 2, 6)


def test_all_layers_are_drawn_at_the_position_that_was_set():
    router = make_router()
    forward(router, 3, 12, (4, 6))
    expected = sample_kept_positions(
        seed=5,
        step=4,
        rows=range(6, 9),
        num_layers=2,
        sequence_length=12,
        kept_length=8,
        device=CPU,
    )
    assert router.positions is not None
    assert torch.equal(router.positions, expected)
    assert (router.draw.num_rows, router.draw.sequence_length) == (3, 12)


def test_rows_of_one_sample_are_numbered_together():
    """Two micro-batches of 2 samples with 3 rows each are the 12 rows of the whole."""
    router = make_router()

    def drawn(first_sample: int, num_samples: int) -> torch.Tensor:
        router.set_position(0, first_sample, num_samples)
        router.begin_forward(3 * num_samples, 12, CPU)
        return router.positions

    assert torch.equal(drawn(0, 4), torch.cat([drawn(0, 2), drawn(2, 2)], dim=1))


def test_positions_always_kept_are_in_every_subset():
    router = make_router(always_keep=(0, 7), schedule=constant(3))
    forward(router, 50, 12)
    assert (router.positions[..., 0] == 0).all()
    assert (router.positions == 7).any(dim=-1).all()
    router.set_position(0, 0)
    with pytest.raises(ValueError, match=r"always_keep is \[0, 7\], but the sequence has 7 tokens"):
        router.begin_forward(50, 7, CPU)
    router = make_router(always_keep=(0, 7), schedule=constant(1))
    with pytest.raises(ValueError, match="gives 1 tokens at step 0: at least 2"):
        router.kept_length(0)


def test_no_generator_is_touched():
    router = make_router()
    before = torch.get_rng_state()
    forward(router, 3, 12)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sequence_length", [8, 7])
def test_nothing_is_drawn_when_the_whole_sequence_is_kept(sequence_length, monkeypatch):
    router = make_router()
    forward(router, 2, 12)
    monkeypatch.setattr("data_efficiency.routing.router.sample_kept_positions", None)
    forward(router, 2, sequence_length, (4, 0))
    assert router.positions is None


def test_the_length_is_marked_dynamic_where_a_compiler_is_loaded(monkeypatch):
    marked = []

    class Compiler:
        @staticmethod
        def maybe_mark_dynamic(tensor, axis):
            marked.append((tensor.shape, axis))

    monkeypatch.setitem(sys.modules, "torch._dynamo", Compiler)
    router = make_router()
    forward(router, 3, 12)
    assert marked == [((2, 3, 4), 2)]


def test_the_first_layer_may_correct_the_shape_once():
    router = make_router()
    forward(router, 3, 0, (4, 6))
    assert router.positions is None
    router.correct_shape(3, 12, CPU)
    assert router.positions.shape == (2, 3, 8)
    assert layer_tokens(router.last_shape(), 3) == 3 * (12 + 2 * 8)
    with pytest.raises(ValueError, match="the forward's first one 3 rows of 12 tokens"):
        router.correct_shape(3, 13, CPU)
    forward(router, 3, 12, (5, 6))
    with pytest.raises(ValueError, match="check hidden_state_order"):
        router.correct_shape(12, 3, CPU)


def test_the_last_shape_is_the_one_that_layers_saw():
    router = make_router()
    assert router.last_shape() is None
    forward(router, 3, 12)
    router.correct_shape(3, 13, CPU)
    assert layer_tokens(router.last_shape(), 3) == 3 * (13 + 2 * 4)
    forward(router, 2, 6, (4, 0))
    assert layer_tokens(router.last_shape(), 3) == 2 * 3 * 6
    router.keep_everything()
    assert router.last_shape() is None


def test_each_forward_needs_a_position_of_its_own():
    router = make_router()
    with pytest.raises(RuntimeError, match="set_position"):
        router.begin_forward(2, 12, CPU)
    forward(router, 2, 12)
    with pytest.raises(RuntimeError, match="set_position"):
        router.begin_forward(2, 12, CPU)


@pytest.mark.parametrize("place", [(-1, 0), (0, -1), (0, 0, 0)])
def test_positions_are_not_negative(place):
    with pytest.raises(ValueError, match="must not be negative"):
        make_router().set_position(*place)


def test_a_schedule_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="gives 0 tokens at step 3"):
        make_router(schedule=constant(0)).kept_length(3)
