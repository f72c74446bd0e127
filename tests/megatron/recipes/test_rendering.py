import pytest

from data_efficiency import ConfigError, load_config
from megatron.arguments import make_parser, run_config_from
from megatron.recipes import prepare_run, read_recipe
from tests.megatron.recipes.recipe_files import PRETRAINING, SHIPPED, write_family


@pytest.fixture
def recipe(tmp_path):
    return read_recipe(write_family(tmp_path), "small_run")


def test_one_recipe_makes_flags_and_json(recipe):
    run = prepare_run(recipe, num_processes=2, difficulty="d", flags={"data_path": ["0.7", "a"]})
    assert run.script == "pretrain_gpt.py"
    flags = run_config_from(make_parser("").parse_args(run.arguments("c.json")))
    assert flags.data.data_path == ("0.7", "a")
    assert (flags.training.micro_batch_size, flags.training.batch_size) == (4, 16)
    assert (flags.training.random_ltd, flags.training.deepspeed_config) == (True, "c.json")
    assert flags.checkpoint.save_interval == 50
    section = load_config(run.json).data_efficiency
    (rarity,), (length,) = section.selections, section.length_plans
    assert rarity.index_path == "d/vocab_rarity"
    assert (length.min_difficulty, length.max_difficulty) == (8, 64)
    assert rarity.schedule.difficulty(40) == 100 > rarity.schedule.difficulty(39)
    assert section.random_ltd.random_ltd_layer_id == (1, 2)
    assert (
        section.random_ltd.schedule.difficulty(70)
        == 64
        > section.random_ltd.schedule.difficulty(60)
    )
    assert section.seed == flags.training.seed == 7


def test_other_sizes_change_what_follows_from_them(recipe):
    run = prepare_run(recipe, num_processes=1, flags={"seq_length": 32, "num_layers": 6})
    section = load_config(run.json).data_efficiency
    assert section.length_plans[0].max_difficulty == 32
    assert section.random_ltd.random_ltd_layer_id == (1, 2, 3, 4)


def test_a_run_goes_on_in_its_own_folder(recipe):
    flags = prepare_run(recipe, num_processes=1, flags={"save": "s"}).config().checkpoint
    assert (flags.load, flags.allow_missing_checkpoint) == ("s", True)


def test_warm_up_in_steps_is_the_tokens_of_those_steps(tmp_path):
    catalogue = write_family(tmp_path, pretraining="warmup_steps = 5\n" + PRETRAINING)
    run = prepare_run(read_recipe(catalogue, "small_run"), num_processes=1)
    # The curriculum starts at 8 of 64 tokens and dropping at 16: nothing is dropped of 8.
    assert run.config().training.lr_warmup_tokens == 5 * 16 * 8


def test_processes_share_the_batch(recipe):
    assert prepare_run(recipe, num_processes=16).flags["micro_batch_size"] == 1
    with pytest.raises(ConfigError, match="16: 3 processes cannot share it in micro-batches of 4"):
        prepare_run(recipe, num_processes=3)


def test_the_torch_engine_gets_no_section_that_it_refuses():
    recipe = read_recipe(SHIPPED, "gpt_baseline_300b")
    ours, theirs = (
        prepare_run(recipe, num_processes=64, engine=engine) for engine in ("torch", "deepspeed")
    )
    assert "zero_optimization" not in ours.json
    assert theirs.json["zero_optimization"] == {"stage": 1}
    assert theirs.json["fp16"]["initial_scale_power"] == 11
    assert (ours.flags["deepspeed"], theirs.flags["deepspeed"]) == (False, True)


def test_published_values_of_the_composed_recipe():
    run = prepare_run(read_recipe(SHIPPED, "gpt_cl_ltd_150b"), num_processes=64)
    config = run.config()
    assert (config.training.lr, config.training.train_tokens) == (4e-4, 150 * 10**9)
    assert (config.training.batch_size, config.training.micro_batch_size) == (512, 8)
    section = load_config(run.json).data_efficiency
    rarity, length = section.schedules.values()
    assert (rarity.min_difficulty, rarity.total_curriculum_step, rarity.root_degree) == (
        1,
        55_000,
        2,
    )
    assert (length.min_difficulty, length.difficulty_step, length.max_difficulty) == (80, 8, 2048)
    dropping = section.random_ltd
    assert dropping.random_ltd_layer_id == tuple(range(1, 23))
    assert (dropping.schedule.total_curriculum_step, dropping.schedule.difficulty_step) == (
        10**5,
        16,
    )


def test_published_values_of_the_composed_recipe_of_bert():
    run = prepare_run(read_recipe(SHIPPED, "bert_cl_ltd_524b"), num_processes=64)
    training = run.config().training
    assert run.script == "pretrain_bert.py"
    assert (training.lr, training.min_lr, training.lr_decay_style) == (2e-4, 1e-5, "linear")
    assert (training.train_tokens, training.batch_size) == (10**6 * 512 * 1024, 1024)
    # 10,000 steps of 128 tokens: a curriculum's first steps are short, and nothing is dropped of them.
    assert 10_000 * 1024 * 128 <= training.lr_warmup_tokens < 10_000 * 1024 * 144
    section = load_config(run.json).data_efficiency
    rarity, length = section.schedules.values()
    assert (rarity.min_difficulty, rarity.total_curriculum_step, rarity.root_degree) == (
        5,
        480_000,
        2,
    )
    assert (length.min_difficulty, length.difficulty_step, length.max_difficulty) == (128, 8, 512)
    assert section.random_ltd.model_type == "encoder"
    assert section.random_ltd.schedule.total_curriculum_step == 10**6


@pytest.mark.parametrize("name", ["bert_cl_reorder_1049b", "bert_cl_voc_reorder_1049b"])
def test_reordering_selects_samples_and_trims_their_padding(name):
    """The published case of `seqlen` says single_cluster, which selects none."""
    run = prepare_run(read_recipe(SHIPPED, name), num_processes=64)
    section = load_config(run.json).data_efficiency
    (selection,), (length,) = section.selections, section.length_plans
    assert selection.name == length.name
    assert (length.action, length.length_multiple) == ("trim_padding", 8)
    assert (selection.schedule.difficulty(1), selection.schedule.difficulty(960_000)) == (5, 100)


@pytest.mark.parametrize("name", SHIPPED.recipes)
def test_padding_is_trimmed_where_bert_has_a_curriculum_that_does_not_truncate(name):
    section = load_config(
        prepare_run(read_recipe(SHIPPED, name), num_processes=1).json
    ).data_efficiency
    actions = {length.action for length in section.length_plans}
    if section.schedules and not actions & {"truncate", "reshape"}:
        assert actions == ({"trim_padding"} if name.startswith("bert") else set())
    else:
        assert "trim_padding" not in actions
