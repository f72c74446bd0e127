import pytest

from data_efficiency import load_config
from megatron.arguments import parse_run_config
from megatron.finetuning.section import RunSize, budget_of, finetuning_json, whole_steps
from megatron.recipes import SHIPPED

SIZE = RunSize(num_layers=12, length=197, num_samples=1000)
OFF = ["--no-random-ltd", "--no-data-efficiency-curriculum-learning"]


def config_of(recipe, *flags):
    architecture = SHIPPED.finetuning[recipe].parents[1].name
    return parse_run_config("", ["--config", recipe, *flags], architecture=architecture)


def section_of(recipe, *flags):
    return load_config(finetuning_json(config_of(recipe, *flags), SIZE)).data_efficiency


@pytest.mark.parametrize("recipe", SHIPPED.finetuning)
def test_every_recipe_gives_the_techniques_that_it_has(recipe):
    section = section_of(recipe, "--seed", "5", "--difficulty", "x")
    has_curriculum = recipe in ("reshape", "truncate", "rarity", "smollm2", "dinov2")
    assert section.random_ltd.random_ltd_layer_id == tuple(range(1, 11))
    assert bool(section.schedules) == has_curriculum
    assert section.seed == 5
    none = section_of(recipe, *OFF)
    assert (none.random_ltd, none.schedules) == (None, {})


def test_auto_values_follow_the_size_of_the_run():
    flags = ["--epochs", "2", "--global-batch-size", "8", "--micro-batch-size", "4"]
    config = config_of("reshape", *flags, "--curriculum-share", "0.1")
    assert whole_steps(config.training, SIZE) == 250
    found = load_config(finetuning_json(config, SIZE))
    dropping = found.data_efficiency.random_ltd
    assert (dropping.schedule.min_difficulty, dropping.schedule.max_difficulty) == (24, 197)
    assert dropping.schedule.total_curriculum_step == 75
    (metric,) = found.data_efficiency.length_plans
    assert (metric.min_difficulty, metric.max_difficulty) == (6, 197)
    assert metric.schedule.total_curriculum_step == 25
    assert found.batch_sizes(1) == (4, 2)


@pytest.mark.parametrize(
    ("unit", "amount"),
    [("steps", 250), ("consumed_token", 2 * 1000 * 197), ("layer_tokens", 250 * 8 * 197 * 12)],
)
def test_the_budget_is_what_the_epochs_are_without_techniques(unit, amount):
    flags = ["--epochs", "2", "--global-batch-size", "8", "--micro-batch-size", "4"]
    assert budget_of(config_of("dinov2", *flags, "--budget", unit).training, SIZE) == (unit, amount)
