import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_efficiency import ConfigError, load_config
from megatron.arguments import parse_run_config
from megatron.engine_json import (
    BUCKETS,
    PASS_SAMPLES,
    engine_json,
    with_buckets_of,
    with_rows_of_buckets,
)
from megatron.nested_keys import value_at
from tests.json_sections import length_metric, sorting_metric
from tests.megatron.test_arguments import NEEDED, PUBLISHED, write_json


def test_what_a_published_file_says_of_a_setting_is_the_setting(tmp_path):
    """A seed of the file was refused against a default that nobody had given."""
    config = parse_run_config("", [*NEEDED, *write_json(tmp_path / "a.json", PUBLISHED)])
    training = config.training
    assert (training.seed, training.batch_size, training.micro_batch_size) == (1, 16, 2)
    assert (training.clip_grad, training.fp16, config.data.num_workers) == (0.5, True, 3)
    content = engine_json(config, 2)
    assert content["fp16"] == {"enabled": True, "initial_scale_power": 11}
    assert content["gradient_accumulation_steps"] == 4
    assert content["data_efficiency"]["seed"] == 1


def test_accumulation_steps_of_the_file_hold(tmp_path):
    content = {"gradient_accumulation_steps": 3, "train_batch_size": 16}
    config = parse_run_config("", [*NEEDED, *write_json(tmp_path / "a.json", content)])
    with pytest.raises(
        ConfigError, match="gradient_accumulation_steps is 3, but .* is 4: remove it"
    ):
        engine_json(config, 1)


def test_a_flag_says_the_stage_of_sharding(tmp_path):
    for written in ({}, {"stage": "auto"}, {"stage": 3, "overlap_comm": True}):
        words = [*NEEDED, *write_json(tmp_path / "a.json", {"zero_optimization": written})]
        content = engine_json(parse_run_config("", [*words, "--fsdp", "3"]))
        assert content["zero_optimization"] == written | {"stage": 3}
    assert "zero_optimization" not in engine_json(parse_run_config("", NEEDED))
    words = [*NEEDED, *write_json(tmp_path / "a.json", {"zero_optimization": {"stage": 2}})]
    with pytest.raises(ConfigError, match="zero_optimization.stage is 2, but --fsdp is 3"):
        engine_json(parse_run_config("", [*words, "--fsdp", "3"]))


def test_the_older_warm_up_section_follows_its_switch(tmp_path):
    older = {
        "enabled": True,
        "curriculum_type": "seqlen",
        **{"min_difficulty": 8, "max_difficulty": 64, "schedule_type": "fixed_linear"},
        "schedule_config": {"total_curriculum_step": 10, "difficulty_step": 8},
    }
    words = [*NEEDED, *write_json(tmp_path / "a.json", {"curriculum_learning": older})]
    config = parse_run_config("", [*words, "--data-efficiency-curriculum-learning"])
    assert list(load_config(engine_json(config)).data_efficiency.schedules) == ["seqlen_truncate"]


def test_a_mix_alone_switches_sampling_on(tmp_path, caplog):
    """The switch was written as off, and then warned of as if the file had said it."""
    content = {"data_efficiency": {"data_sampling": {"mix": {"weights": [[1]], "at_samples": [0]}}}}
    config = parse_run_config("", [*NEEDED, *write_json(tmp_path / "a.json", content)])
    made = engine_json(config, 1)
    assert made["data_efficiency"]["data_sampling"]["enabled"] is True
    assert made["data_efficiency"]["enabled"] is True
    assert load_config(made).data_efficiency.mix is not None
    assert "only the inner switch counts" not in caplog.text


@pytest.mark.parametrize(
    ("flags", "bags", "samples"),
    [
        (["--train-iters", "8"], {}, 64),
        (["--train-iters", "8"], {"enabled": True, "bag_size": 3, "num_steps": 4}, 128),
        (["--train-iters", "2"], {"enabled": True, "bag_size": 3, "num_steps": 4}, 48),
        (
            ["--train-iters", "8"],
            {"enabled": True, "bag_size": 3, "num_steps": 4, "bags": "output"},
            64,
        ),
        (["--train-samples", "80"], {"enabled": True, "bag_size": 3, "num_steps": 4}, 80),
    ],
)
def test_a_pass_through_an_order_is_as_long_as_the_run(tmp_path, flags, bags, samples):
    """Rows of bags are of several samples: the order was over in the middle of the run, and began again."""
    content = {
        "data_sampling": {"curriculum_learning": {"order": {"pass_samples": "auto"}}},
        "data_routing": {"token_superposition": bags},
    }
    words = write_json(tmp_path / "a.json", {"data_efficiency": content})
    batch = ["--micro-batch-size", "8", "--global-batch-size", "8"]
    config = parse_run_config("", ["--data-path", "corpus", *batch, *flags, *words])
    assert value_at(engine_json(config), PASS_SAMPLES) == samples


def test_a_pass_that_nobody_knows_the_length_of_is_asked_for(tmp_path):
    metrics = {
        "rarity": sorting_metric(),
        "seqlen_truncate": length_metric(8, 32, constant_tokens=True),
    }
    learning = {"enabled": True, "curriculum_metrics": metrics, "order": {"pass_samples": "auto"}}
    content = {"data_efficiency": {"data_sampling": {"curriculum_learning": learning}}}
    config = parse_run_config("", [*NEEDED, *write_json(tmp_path / "a.json", content)])
    with pytest.raises(ConfigError, match="pass_samples is 'auto', and constant_tokens changes"):
        engine_json(config)
    del metrics["seqlen_truncate"]
    ramp = ["--rampup-batch-size", "4", "4", "40", "--global-batch-size", "8"]
    config = parse_run_config("", [*NEEDED, *write_json(tmp_path / "c.json", content), *ramp])
    with pytest.raises(ConfigError, match="pass_samples is 'auto', and batch_size changes"):
        engine_json(config)
    learning["order"]["pass_samples"] = 70
    config = parse_run_config("", [*NEEDED, *write_json(tmp_path / "b.json", content)])
    assert value_at(engine_json(config), PASS_SAMPLES) == 70


def ramped(*numbers, total=32, **sections):
    flags = [*NEEDED, "--global-batch-size", total, "--rampup-batch-size", *numbers]
    return parse_run_config("", [*map(str, flags)], **sections)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 400))
def test_a_ramp_is_megatrons(start, increment, number, samples):
    total = start * 4 + increment * 4 * number
    config = ramped(4 * start, 4 * increment, samples, total=total)
    if samples < number:
        with pytest.raises(ConfigError, match="are fewer than"):
            engine_json(config)
        return
    batch = load_config(engine_json(config)).data_efficiency.batch_size
    for drawn in range(0, samples + 5):
        # Its calculator, in exact numbers.
        size = total
        if drawn <= samples:
            size = 4 * start + drawn * number // samples * 4 * increment
        assert batch.samples_at(1, drawn) == size


@pytest.mark.parametrize("numbers", [(4, 8), (4, 8, 0), (4, 5, 100), (36, 4, 100)])
def test_a_ramp_that_does_not_come_to_the_batch(numbers):
    with pytest.raises(ValueError, match="--rampup-batch-size is"):
        ramped(*numbers)


def test_a_ramp_beside_the_files_own(tmp_path):
    own = {"batch_size": {"min_value": 4, "max_value": 8}}
    content = {"data_efficiency": {"data_sampling": own}}
    flags = [*write_json(tmp_path / "a.json", content), "--global-batch-size", "8"]
    config = parse_run_config("", [*NEEDED, *flags, "--rampup-batch-size", "4", "4", "9"])
    with pytest.raises(ConfigError, match="is written in the file, and --rampup-batch-size"):
        engine_json(config)
    level = parse_run_config("", [*NEEDED, *flags[2:], "--rampup-batch-size", "8", "4", "9"])
    assert load_config(engine_json(level)).data_efficiency.batch_size is None


PIECES = ["--seq-length", "32", "--max-position-embeddings", "32", "--shortest-piece", "8"]


def test_lengths_of_pieces_and_the_steps_of_a_run_are_written(tmp_path):
    section = {"data_efficiency": {"data_sampling": {"length_buckets": {"pass_steps": "auto"}}}}
    words = [*NEEDED, *PIECES, *write_json(tmp_path / "a.json", section)]
    config = parse_run_config("", words)
    sampling = engine_json(config)["data_efficiency"]["data_sampling"]
    assert sampling["length_buckets"] == {"pass_steps": 10, "lengths": [8, 16, 32]}
    assert sampling["enabled"]
    plain = engine_json(parse_run_config("", [*NEEDED, *PIECES]))
    assert value_at(plain, f"{BUCKETS}.lengths") == [8, 16, 32]

    class Rows:
        part_lengths, part_sizes = (8, 16, 32), (5, 4, 3)

    known = engine_json(with_buckets_of(config, Rows()))
    assert value_at(known, f"{BUCKETS}.sizes") == [5, 4, 3]
    assert with_buckets_of(config, object()) is config


def test_other_lengths_and_numbers_of_pieces_are_refused(tmp_path):
    section = {"data_efficiency": {"data_sampling": {"length_buckets": {"lengths": [16, 32]}}}}
    words = [*NEEDED, *PIECES, *write_json(tmp_path / "a.json", section)]
    with pytest.raises(ConfigError, match=r"make \[8, 16, 32\]: remove the key"):
        engine_json(parse_run_config("", words))
    with pytest.raises(
        ConfigError, match="2 numbers of samples are given, and rows have one length"
    ):
        with_rows_of_buckets(parse_run_config("", NEEDED), [1, 2])
