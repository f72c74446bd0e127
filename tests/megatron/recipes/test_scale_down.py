import pytest

from data_efficiency import load_config, plan_run
from data_efficiency.plan import planned_totals
from megatron.engine_json import engine_json
from megatron.nested_keys import value_at
from megatron.recipes import SHIPPED
from megatron.run_state import model_shape
from megatron.stages import stage_ends
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
    if settings.length_buckets is not None:
        assert settings.length_buckets.pass_steps == small.num_whole_steps
        assert before.length_buckets.pass_steps == whole.num_whole_steps
        small_lengths, lengths = (one.length_buckets.lengths for one in (settings, before))
        assert [length * 128 for length in small_lengths] == list(lengths)
    if small.stages:
        # The last step of each but the last, in the same place of the run.
        places = [
            end.corpus_tokens / config.training.train_tokens
            for config in (small, whole)
            for end in stage_ends(config, engine_json)[:-1]
        ]
        assert places == pytest.approx([0.75, 0.75], abs=0.05)
        return
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


def batches_of(config):
    """Samples of each step by the plan of the run, until its tokens are used up."""
    plan = plan_run(
        load_config(engine_json(config)),
        model=model_shape(config.model),
        sequence_length=config.data.seq_length,
        num_steps=200,
        num_samples=10_000,
    )
    last = plan.step_that_fills("corpus_tokens", config.training.train_tokens)
    return [plan.stretch_at(step).counts.consumed_samples for step in range(1, last + 1)]


LINEAR = """
[data_efficiency.data_sampling.batch_size]
min_value = 128
max_value = 512
schedule_type = "fixed_linear"
schedule_config = { total_curriculum_step = 73_000_000, difficulty_step = 128 }
"""
IN_STAGES = """
[data_efficiency.data_sampling.batch_size]
min_value = 128
max_value = 512
counter = "tokens"
schedule_type = "fixed_discrete"
schedule_config = { difficulty = [128, 256, 512], max_step = [75_000_000_000, 150_000_000_000] }
"""
STAGED = "[[stages]]\nshare = 0.5\nglobal_batch_size = 128\n[[stages]]\nshare = 0.5\n"
RAMP = "[training]\nrampup_batch_size = [128, 128, 73_000_000]\n"


@pytest.mark.parametrize("content", [LINEAR, IN_STAGES, STAGED, RAMP])
def test_batches_shrink_in_proportion(tmp_path, content):
    file = tmp_path / "batches.toml"
    file.write_text('base = ["gpt_baseline_300b"]\n' + content)
    words = ("--token-counter", "corpus", "--data-path", "corpus")
    found = batches_of(read(str(file), "--scale-down", *words))
    assert (found[0], found[-1]) == (1, 4)
    assert found == sorted(found)
    assert 20 < len(found) < 60
    growing = sum(samples for samples in found if samples < 4) / sum(found)
    assert growing == pytest.approx(0.5, abs=0.15)


def test_lists_of_steps_shrink_and_rise(tmp_path):
    file = tmp_path / "lists.toml"
    file.write_text(
        'base = ["gpt_baseline_300b"]\n'
        "[data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.seqlen_truncate]\n"
        'schedule_type = "fixed_discrete"\nmin_difficulty = 64\nmax_difficulty = 2048\n'
        "schedule_config = { difficulty = [64, 96, 2048], max_step = [10, 143_000] }\n"
    )
    small = read(str(file), "--scale-down", "--data-path", "corpus").data_efficiency
    schedule = value_at(small, f"{METRICS}.seqlen_truncate")["schedule_config"]
    assert schedule == {"difficulty": [2, 3, 64], "max_step": [1, 10]}


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
