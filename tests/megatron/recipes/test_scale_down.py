import pytest

from data_efficiency import load_config
from data_efficiency.plan import planned_totals
from megatron.engine_json import engine_json
from megatron.nested_keys import value_at
from megatron.recipes import SHIPPED
from megatron.run_state import model_shape
from tests.megatron.recipes.recipe_files import read

METRICS = "data_sampling.curriculum_learning.curriculum_metrics"


def section_of(config):
    return load_config(engine_json(config)).data_efficiency


@pytest.mark.parametrize("name", SHIPPED.recipes)
def test_the_shape_is_kept(name):
    whole, small = read(name), read(name, "--scale-down")
    for key in ("lr", "seed", "lr_decay_style"):
        assert getattr(small.training, key) == getattr(whole.training, key)
    assert small.model.attention_dropout == whole.model.attention_dropout
    settings, before = section_of(small), section_of(whole)
    assert list(settings.schedules) == list(before.schedules)
    assert (settings.random_ltd is None) == (before.random_ltd is None)
    totals = planned_totals(
        load_config(engine_json(small)),
        model=model_shape(small.model),
        sequence_length=small.data.seq_length,
        effective_tokens=small.training.train_tokens,
    )
    assert totals.steps < 40
    if settings.order is not None:
        # A pass through it is as long as the run, whose whole samples fill the budget.
        assert settings.order.pass_samples == small.num_whole_steps * small.training.batch_size
        assert before.order.pass_samples == whole.num_whole_steps * whole.training.batch_size
    paced = [one for one in settings.selections if not one.sorts]
    for metric in (*paced, *settings.length_plans):
        shares = [
            each.schedules[metric.name].total_curriculum_step / config.num_whole_steps
            for each, config in ((settings, small), (before, whole))
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)
        values = {metric.schedule.difficulty(step) for step in range(1, totals.steps + 1)}
        assert len(values) > 2, metric.name
        assert max(values) == metric.max_difficulty
    if settings.random_ltd is not None:
        kept = {settings.random_ltd.schedule.difficulty(step) for step in range(totals.steps)}
        assert len(kept) > 2
        assert max(kept) == small.data.seq_length


def test_lengths_and_steps_shrink_in_proportion():
    small = read("gpt_cl_ltd_300b", "--scale-down").data_efficiency
    schedule = value_at(small, "data_routing.random_ltd.random_ltd_schedule")
    assert (schedule["min_value"], schedule["max_value"]) == (4, "auto")
    assert schedule["schedule_config"] == {"seq_per_step": 1, "require_steps": 14}
    metrics = value_at(small, METRICS)
    assert metrics["seqlen_truncate"]["min_difficulty"] == 2
    assert metrics["vocab_rarity"]["schedule_config"]["total_curriculum_step"] == 8
    assert metrics["vocab_rarity"]["max_difficulty"] == 100
    trimmed = read("bert_cl_voc_1049b", "--scale-down").data_efficiency
    rarity = value_at(trimmed, METRICS)["vocab_rarity"]
    assert (rarity["length_multiple"], rarity["min_difficulty"]) == (1, 5)
    assert rarity["schedule_config"]["difficulty_step"] == 1


def test_lengths_of_stages_shrink_and_shares_stay(tmp_path):
    file = tmp_path / "staged.toml"
    file.write_text(
        'base = ["gpt_baseline_300b"]\n'
        "[[stages]]\nshare = 0.25\nseq_length = 512\nkept_length = 256\nlr_factor = 2.0\n"
        "[[stages]]\nshare = 0.75\nkept_rows = 50\n"
    )
    first, second = read(str(file), "--scale-down", "--data-path", "corpus").stages
    assert (first.share, first.seq_length, first.kept_length, first.lr_factor) == (0.25, 16, 8, 2.0)
    assert (second.share, second.seq_length, second.kept_rows) == (0.75, None, 50)
