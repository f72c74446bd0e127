"""Each training forward is told where it stands, or refused, and what its layers saw is remembered."""

import pytest
import torch
from torch import nn

from data_efficiency import ConfigError, Curriculum, convert_to_random_ltd, initialize
from data_efficiency.config import RoutingConfig, load_config
from data_efficiency.config.short_form import section_of_parts
from data_efficiency.engine.forwards import Forwards
from data_efficiency.engine.ranks import Ranks
from tests.data_efficiency.engine.tiny_engine import (
    LENGTH,
    Layer,
    batches,
    loss_sums,
    make_engine,
    take_step,
)


class Router:
    settings = RoutingConfig(num_layers=1)

    def __init__(self):
        self.calls = []

    def set_position(self, step, first_row, num_samples):
        assert num_samples == 4
        self.calls.append((step, first_row))


def test_forwards_of_all_ranks_share_no_row():
    """Two ranks with two micro-batches cover the rows that one rank with four covers."""

    def starts(rank, size, accumulation):
        content = {
            "train_micro_batch_size_per_gpu": 4,
            "gradient_accumulation_steps": accumulation,
        }
        side, router = Forwards(), Router()
        side._begin(load_config(content), Ranks(data_parallel_rank=rank, data_parallel_size=size))
        side.random_ltd_scheduler = router
        for side.micro_steps in range(accumulation):
            side._place_forward()
        return router.calls

    alone = starts(0, 1, 4)
    assert starts(0, 2, 2) + starts(1, 2, 2) == alone == [(0, 0), (0, 4), (0, 8), (0, 12)]


def test_dropout_depends_on_seed_and_step_alone():
    first, second = make_engine(), make_engine()
    torch.rand(7)
    left = take_step(first).loss
    torch.rand(3)
    assert take_step(second).loss == left
    assert take_step(first).loss != take_step(make_engine()).loss


RANDOM_LTD = {
    "enabled": True,
    "total_layer_num": 3,
    "random_ltd_layer_num": 1,
    "random_ltd_layer_id": [1],
    "model_mask_name": None,
    "model_type": "decoder",
    "hidden_state_order": "batch_seq_dim",
    "random_ltd_schedule": {"min_value": 2, "max_value": 2, "schedule_type": "constant"},
}
CURRICULUM = {
    "enabled": True,
    "curriculum_metrics": {
        "seqlen_truncate": {
            "difficulty_type": "value",
            "clustering_type": "single_cluster",
            "min_difficulty": 4,
            "max_difficulty": LENGTH,
            "schedule_type": "fixed_linear",
            "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 2},
        }
    },
}
WITH_DROPPING = {"data_routing": {"random_ltd": RANDOM_LTD}}
WITH_CURRICULUM = {"data_sampling": {"curriculum_learning": CURRICULUM}}
# How long rows become, only these say.
OPEN_LENGTHS = section_of_parts([Curriculum("seqlen", start=4, steps=4)])
LEGACY = {
    "enabled": True,
    "curriculum_type": "seqlen",
    "min_difficulty": 4,
    "max_difficulty": LENGTH,
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 4, "difficulty_step": 2},
}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data_efficiency": WITH_DROPPING}, "random_ltd is enabled, but no layer drops tokens"),
        ({"data_efficiency": WITH_CURRICULUM}, "is enabled, but there is no loader"),
        ({"curriculum_learning": LEGACY}, "is enabled, but there is no loader"),
        ({"data_efficiency": OPEN_LENGTHS}, "is enabled, but there is no loader"),
    ],
)
@pytest.mark.parametrize("call", ["train_step", "forward"])
def test_what_is_switched_on_and_not_carried_out_is_refused(sections, message, call):
    engine = make_engine(**sections)
    with pytest.raises(ConfigError, match=message):
        take_step(engine) if call == "train_step" else engine(batches()[0])
    engine.eval()
    engine(batches()[0])


def test_batches_from_elsewhere_do_not_pass_for_the_curriculums():
    rows = torch.randint(0, 16, (64, LENGTH))
    engine = make_engine(training_data=rows, data_efficiency=WITH_CURRICULUM)
    with pytest.raises(ConfigError, match="step 1 was not read from the loader"):
        take_step(engine)
    steps = engine.training_dataloader.steps()
    result = engine.train_step(next(steps), loss_sums(engine), torch.numel)
    assert result.sequence_length == 4
    with pytest.raises(ConfigError, match="step 2 was not read from the loader"):
        take_step(engine)


def test_lengths_are_those_that_the_layers_saw():
    engine = convert_to_random_ltd(make_engine(data_efficiency=WITH_DROPPING), Layer)
    result = take_step(engine)
    assert (result.sequence_length, result.kept_length) == (LENGTH, 2)
    assert result.actual_seq_length == (2 * LENGTH + 2) // 3
    assert result.counters.layer_tokens == 8 * (2 * LENGTH + 2)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Conv2d(3, 8, 4, 4)

    def forward(self, pixel_values):
        return self.map(pixel_values).flatten(2).mean((1, 2))


def test_lengths_that_the_arguments_do_not_tell_are_asked_for():
    engine = initialize(
        model=Images(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        config={"train_micro_batch_size_per_gpu": 2},
    )[0]
    images = [torch.randn(2, 3, 8, 8)]
    call = (images, lambda batch: engine(pixel_values=batch).square().sum(), len)
    with pytest.raises(ValueError, match="give train_step shape="):
        engine.train_step(*call)
    assert engine.train_step(*call, shape=lambda batch: (2, 4)).counters.corpus_tokens == 8
