"""Stages as schedules: where they begin, what each key becomes, and what is refused."""

import dataclasses

import pytest

from data_efficiency import ConfigError, load_config
from megatron.engine_json import engine_json
from megatron.optimizer_param_scheduler import make_learning_rate
from megatron.recipes import write_run_file
from megatron.run_state import model_shape
from megatron.stages import stage_ends, stage_starts
from tests.megatron.recipes.recipe_files import BASE, read

RUN = """
base = ["base.toml"]
[training]
train_tokens = 102_400
token_counter = "{counter}"
"""
RARITY = "[data_efficiency.data_sampling.curriculum_learning.curriculum_metrics.vocab_rarity]\n"
SORTED = f'{RARITY}clustering_type = "sorted"\nindex_path = "auto"\n'
ADMITS = f'{RARITY}clustering_type = "schedule_based"\nindex_path = "auto"\n'


@pytest.fixture
def staged(tmp_path):
    """Makes a run of stages: keys of each, and more tables; its budget is 100 steps of whole rows."""

    (tmp_path / "base.toml").write_text(BASE)

    def make(stages, more="", counter="corpus", *flags):
        lists = "".join(f"[[stages]]\n{one}\n" for one in stages)
        path = tmp_path / "run.toml"
        path.write_text(RUN.format(counter=counter) + lists + more)
        return read(str(path), *flags)

    return make


def section_of(config):
    return load_config(engine_json(config)).data_efficiency.with_length(64)


def test_a_stage_ends_with_the_step_that_fills_its_share(staged):
    halves = ["share = 0.25\nseq_length = 16", "share = 0.25\nseq_length = 32", "share = 0.5"]
    config = staged(halves)
    ends = stage_ends(config, engine_json)
    assert [end.steps for end in ends] == [100, 150, 200]
    assert [end.corpus_tokens for end in ends] == [25_600, 51_200, 102_400]
    assert stage_starts(config, engine_json) == (1, 101, 151)
    [plan] = section_of(config).length_plans
    assert [plan.schedule.difficulty(step) for step in (1, 100, 101, 150, 151, 10**9)] == [
        *(16, 16, 32, 32, 64, 64)
    ]


def test_shares_of_effective_tokens_see_what_is_dropped(staged):
    config = staged(["share = 0.5\nkept_length = 32", "share = 0.5"], "", "effective")
    ends = stage_ends(config, engine_json)
    # 2 of 4 layers see half of each row: 48 of 64 tokens a row.
    assert [end.steps for end in ends] == [67, 117]
    kept = section_of(config).random_ltd.schedule
    assert [kept.difficulty(finished) for finished in (0, 66, 67)] == [32, 32, 64]


def test_more_rows_while_these_are_short(staged):
    more = "[data_efficiency.data_sampling.curriculum_learning.curriculum_metrics]\n"
    more += "seqlen_truncate.constant_tokens = true\n"
    config = staged(["share = 0.5\nseq_length = 16", "share = 0.5"], more)
    assert [end.steps for end in stage_ends(config, engine_json)] == [50, 100]
    assert stage_ends(config, engine_json)[0].consumed_samples == 50 * 16 * 4


def test_rows_that_skip_layers(staged):
    more = "[data_efficiency.data_routing.layer_dropout]\nrows_per_group = 4\n"
    config = staged(["share = 0.5\nkept_rows = 50", "share = 0.5"], more)
    schedule = section_of(config).layer_dropout.schedule
    assert [schedule.difficulty(finished) for finished in (0, 49, 50)] == [50, 50, 100]


def test_a_pool_is_that_of_the_metric_which_admits_samples(staged):
    config = staged(["share = 0.5\npool = 30", "share = 0.5"], ADMITS)
    [selection] = section_of(config).selections
    assert (selection.difficulty_type, selection.max_difficulty) == ("percentile", 100)
    assert [selection.schedule.difficulty(step) for step in (50, 51)] == [30, 100]


def test_an_order_changes_with_the_samples_drawn(staged):
    config = staged(["share = 0.7", 'share = 0.3\norder = "ascending"'], SORTED)
    order = section_of(config).order
    assert order.stages == (("shuffled", 7), ("ascending", 3))
    assert order.pass_samples == 100 * 16


def test_a_mix_changes_with_the_samples_drawn(staged):
    config = staged(["share = 0.5\nmix = [3, 1]", "share = 0.5\nmix = [1, 1]"])
    mix = section_of(config).mix
    assert (mix.points, mix.weights) == ((0, 800), ((0.75, 0.25), (0.5, 0.5)))


@pytest.mark.parametrize("counter", ["corpus", "effective"])
def test_the_rate_changes_at_the_first_step_of_a_stage(staged, counter):
    stages = ["share = 0.4\nkept_length = 16", "share = 0.6\nlr_factor = 1.5"]
    config = staged(stages, "", counter, "--lr-decay-style", "constant", "--lr-warmup-tokens", "0")
    rate = make_learning_rate(config, model_shape(config.model))
    boundary = stage_ends(config, engine_json)[0].at(counter, 4)
    assert (rate.at(boundary - 1), rate.at(boundary)) == (1e-3, pytest.approx(1.5e-3))


def test_what_is_written_back_is_the_same_run(staged, tmp_path):
    config = staged(["share = 0.5\nseq_length = 16\nlr_factor = 2", "share = 0.5"])
    again = tmp_path / "again.toml"
    again.write_text(write_run_file(config, "command"))
    assert read(str(again)).stages == config.stages
    assert engine_json(read(str(again))) == engine_json(config)


def test_a_switch_turns_off_what_stages_say(staged):
    stages = ["share = 0.5\nkept_length = 16\nseq_length = 32", "share = 0.5"]
    flags = ("--no-random-ltd", "--no-data-efficiency-curriculum-learning")
    section = section_of(staged(stages, "", "corpus", *flags))
    assert section.random_ltd is None
    assert not section.length_plans
    assert section_of(staged(stages)).random_ltd is not None


@pytest.mark.parametrize(
    ("stages", "more", "counter", "told"),
    [
        (["share = 0.5\nseq_length = 65", "share = 0.5"], "", "corpus", r"stages\[0\].seq_length is 65"),
        (["share = 0.001", "share = 0.001", "share = 0.998"], "", "corpus", r"stages\[1\].share is 0.001"),
        (["share = 0.5", "share = 0.5"], "", "loss", "token-counter is 'loss'"),
        (["share = 0.5\npool = 30", "share = 0.5"], "", "corpus", "needs one metric whose clustering"),
        (['share = 0.5\norder = "ascending"', "share = 0.5"], ADMITS, "corpus", "is sorted"),
        (
            ["share = 0.5\npool = 30", "share = 0.5"],
            ADMITS + "min_difficulty = 3\n",
            "corpus",
            "min_difficulty is 3, and stages have 'pool'",
        ),
        (
            ["share = 0.5\nkept_length = 30", "share = 0.5"],
            "[data_efficiency.data_routing.random_ltd.random_ltd_schedule]\nmin_value = 3\n",
            "corpus",
            "random_ltd_schedule is .*, and stages have 'kept_length'",
        ),
        (
            ["share = 0.5\nmix = [1, 1]", "share = 0.5\nmix = [1, 2]"],
            "[data_efficiency.data_sampling.mix]\nweights = [[1, 1]]\nat_samples = [0]\n",
            "corpus",
            "data_sampling.mix is .*, and stages have 'mix'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(staged, stages, more, counter, told):
    with pytest.raises(ConfigError, match=told):
        engine_json(staged(stages, more, counter))


@pytest.mark.parametrize(
    ("key", "table"), [("lr = 1e-3", "training"), ("hidden_size = 64", "model")]
)
def test_what_a_run_has_once_is_no_key_of_a_stage(staged, key, table):
    with pytest.raises(ConfigError, match=rf"stages\[1\].{key[:2]}.*write it in \[{table}\]"):
        staged(["share = 0.5", f"share = 0.5\n{key}"])


def test_a_file_above_has_its_own_stages_or_those_below(staged, tmp_path):
    staged(["share = 0.5\nseq_length = 16", "share = 0.5"])
    above = tmp_path / "above.toml"
    above.write_text('base = ["run.toml"]\n[training]\nlr = 2e-3\n')
    assert read(str(above)).stages[0].seq_length == 16
    above.write_text('base = ["run.toml"]\n[[stages]]\nshare = 0.2\n[[stages]]\nshare = 0.8\n')
    assert [stage.seq_length for stage in read(str(above)).stages] == [None, None]


def test_a_run_without_stages_is_as_it_was(staged):
    config = staged(["share = 0.5", "share = 0.5"])
    plain = dataclasses.replace(config, stages=())
    assert engine_json(plain) == engine_json(config)
    assert stage_starts(plain, engine_json) == ()
