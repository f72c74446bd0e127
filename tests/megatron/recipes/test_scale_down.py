import pytest

from data_efficiency import load_config, planned_totals
from megatron.recipes import prepare_run, read_recipe, scale_down
from megatron.run_state import model_shape
from tests.megatron.recipes.recipe_files import SHIPPED


@pytest.mark.parametrize("name", SHIPPED.recipes)
def test_the_shape_is_kept(name):
    whole = read_recipe(SHIPPED, name)
    small = scale_down(whole)
    assert set(small.metrics) == set(whole.metrics)
    assert (small.random_ltd is None) == (whole.random_ltd is None)
    run = prepare_run(small, num_processes=1)
    config = run.config()
    for name in ("attention_dropout", "lr", "seed", "vocab_size", "lr_decay_style"):
        assert small.flags[name] == whole.flags[name]
    if whole.curriculum_steps is not None:
        shares = [each.curriculum_steps / each.full_length_steps for each in (small, whole)]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)
    section = load_config(run.json)
    totals = planned_totals(
        section,
        model=model_shape(config.model),
        sequence_length=small.flags["seq_length"],
        effective_tokens=small.flags["train_tokens"],
    )
    assert totals.steps < 40
    settings = section.data_efficiency
    for metric in (*settings.selections, *settings.length_plans):
        values = {metric.schedule.difficulty(step) for step in range(1, totals.steps + 1)}
        assert len(values) > 2, metric.name
        assert max(values) == metric.max_difficulty
    if section.data_efficiency.random_ltd is not None:
        schedule = section.data_efficiency.random_ltd.schedule
        kept = {schedule.difficulty(step) for step in range(totals.steps)}
        assert len(kept) > 2
        assert max(kept) == small.flags["seq_length"]


def test_the_multiple_of_a_length_is_a_length():
    small = scale_down(read_recipe(SHIPPED, "bert_cl_voc_1049b"))
    assert small.metrics["vocab_rarity"]["length_multiple"] == 1
    assert small.metrics["vocab_rarity"]["min_difficulty"] == 5
    assert small.metrics["vocab_rarity"]["schedule_config"]["difficulty_step"] == 1


def test_lengths_and_steps_shrink_in_proportion():
    small = scale_down(read_recipe(SHIPPED, "gpt_cl_ltd_300b"))
    assert small.random_ltd == {"min_value": 4, "seq_per_step": 1, "require_steps": 14}
    assert small.curriculum_steps == 8
    assert small.metrics["seqlen_truncate"]["min_difficulty"] == 2
    assert small.metrics["vocab_rarity"]["max_difficulty"] == 100
