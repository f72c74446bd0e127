"""Sizes of the present step, where settings, loader and router say them."""

from types import SimpleNamespace

import torch

from data_efficiency import ModelShape
from data_efficiency.config import RoutingConfig, load_config
from data_efficiency.engine.base import make_loader
from data_efficiency.engine.position import Position
from data_efficiency.engine.ranks import Ranks

SIZES = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
MODEL = ModelShape(
    num_layers=7,
    hidden_size=8,
    query_size=8,
    key_value_size=8,
    ffn_size=8,
    num_ffn_matrices=2,
    vocab_size=16,
)


def position(*, rank=0, size=1, **sections):
    found = Position()
    ranks = Ranks(data_parallel_rank=rank, data_parallel_size=size)
    found._begin(load_config(SIZES | sections), ranks)
    return found


def test_a_training_begins_before_its_first_step():
    stands = position(size=2)
    assert (stands.counters.steps, stands.global_steps) == (0, 0)
    assert (stands._accumulation, stands._num_samples, stands._tokens_per_position) == (2, 16, 1)
    assert (stands.num_layers, stands._num_dropping) == (1, 0)
    assert not stands.random_ltd_enabled()
    assert not stands.curriculum_learning_enabled()


def test_micro_batches_of_all_processes_are_numbered_through():
    numbers = [
        position(rank=rank, size=3)._number_in_step(own) for rank in range(3) for own in (0, 1)
    ]
    assert numbers == list(range(6))


def test_the_published_step_number_is_that_of_the_counters():
    stands = position()
    stands.global_steps = 5
    assert stands.counters.steps == 5
    stands._go_to_step_begin()
    assert stands.micro_steps == 10


def test_layers_are_told_by_the_model_before_its_routes():
    stands = position()
    stands.random_ltd_scheduler = SimpleNamespace(settings=RoutingConfig(num_layers=5))
    assert stands.num_layers == 5
    stands.model_shape = MODEL
    assert stands.num_layers == 7


def test_what_the_json_switches_on():
    dropping = {
        "enabled": True,
        "total_layer_num": 6,
        "random_ltd_layer_num": 2,
        "random_ltd_layer_id": [1, 2],
        "model_mask_name": None,
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
        "random_ltd_schedule": {"min_value": 2, "max_value": 2, "schedule_type": "constant"},
    }
    section = {"data_routing": {"random_ltd": dropping}}
    stands = position(data_efficiency=section)
    assert stands.random_ltd_enabled()
    assert (stands.num_layers, stands._num_dropping) == (6, 2)


def test_a_step_is_as_large_as_its_loader_says():
    stages = {"difficulty": [4, 8, 12], "max_step": [7, 23]}
    batch = {
        "min_value": 4,
        "max_value": 12,
        "counter": "samples",
        "schedule_type": "fixed_discrete",
        "schedule_config": stages,
    }
    stands = position(data_efficiency={"data_sampling": {"batch_size": batch}})
    assert stands._num_samples == 8
    rows = torch.arange(400)[:, None]
    stands.training_dataloader = make_loader(rows, stands.json_config, stands.ranks, None)
    sizes = []
    for stands.global_steps in range(6):
        sizes.append((stands._accumulation, stands._num_samples))
    assert sizes == [(1, 4), (1, 4), (2, 8), (2, 8), (3, 12), (3, 12)]


def test_bags_of_tokens_stand_for_several_samples_until_they_end():
    bags = {"enabled": True, "bag_size": 4, "num_steps": 3}
    stands = position(data_efficiency={"data_routing": {"token_superposition": bags}})
    assert (stands._tokens_per_position, stands._num_samples) == (4, 32)
    stands.global_steps = 3
    assert (stands._tokens_per_position, stands._num_samples) == (1, 8)
