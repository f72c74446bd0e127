import json
import tomllib

import pytest

from data_efficiency import ConfigError, load_config
from megatron.arguments import parse_run_config
from megatron.engine_json import engine_json
from megatron.recipes import SHIPPED, read_toml, write_run_file
from megatron.run_settings import with_batch_size
from tests.megatron.recipes.recipe_files import BASE, RUN, read, write_run


@pytest.fixture
def small(tmp_path):
    return write_run(tmp_path)


def test_one_file_is_settings_and_json(small):
    config = with_batch_size(read(small, "--difficulty", "d", "--data-path", "0.7", "a"), 2)
    assert config.data.data_path == ("0.7", "a")
    assert config.save_interval == 50
    content = engine_json(config, 2)
    assert content["gradient_accumulation_steps"] == 2
    section = load_config(content).data_efficiency
    (rarity,), (length,) = section.selections, section.length_plans
    assert rarity.index_path == "d/vocab_rarity"
    assert (length.min_difficulty, length.max_difficulty) == (8, 64)
    assert section.random_ltd.random_ltd_layer_id == (1, 2)
    assert section.random_ltd.schedule.difficulty(70) == 64
    assert section.seed == 7


def test_a_run_goes_on_in_its_own_folder(small):
    saving = read(small).checkpoint
    assert (saving.save, saving.load, saving.allow_missing_checkpoint) == (
        *["runs/small"] * 2,
        True,
    )
    saving = read(small, "--save", "s", "--load", "other").checkpoint
    assert (saving.save, saving.load, saving.allow_missing_checkpoint) == ("s", "other", False)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--lr", "1e-2"], {"lr": 1e-2, "seed": 7}),
        (["--bf16"], {"bf16": True, "fp16": False}),
        (["--no-fp16"], {"bf16": False, "fp16": False}),
        (["--micro-batch-size", "2"], {"micro_batch_size": 2, "global_batch_size": 16}),
        (["--deepspeed"], {"deepspeed": True}),
        (["--no-random-ltd"], {"random_ltd": False, "data_efficiency_curriculum_learning": True}),
        (["--lr-warmup-iters", "3"], {"lr_warmup_iters": 3, "lr_warmup_tokens": 0}),
        (["--lr-decay-iters", "9"], {"lr_decay_iters": 9}),
    ],
)
def test_one_flag_changes_one_thing(small, flags, found):
    config = read(small, *flags)
    assert {name: getattr(config.training, name) for name in found} == found
    content = load_config(engine_json(config))
    assert ("zero_optimization" in content.engine_sections) == config.training.deepspeed
    assert ("fp16" in content.engine_sections) == config.training.fp16
    assert (content.data_efficiency.random_ltd is not None) == config.training.random_ltd


def test_other_sizes_change_what_follows_from_them(small):
    section = load_config(
        engine_json(read(small, "--seq-length", "32", "--num-layers", "6"))
    ).data_efficiency
    assert section.length_plans[0].max_difficulty == 32
    assert section.random_ltd.random_ltd_layer_id == (1, 2, 3, 4)


@pytest.mark.parametrize("name", ["small", *SHIPPED.recipes])
def test_what_is_written_is_what_was_read(name, small, tmp_path):
    path = small if name == "small" else name
    config = read(path, "--save", "here", *(["--deepspeed"] if name == "small" else []))
    written = tmp_path / "run.toml"
    written.write_text(write_run_file(config, "a command"))
    again = parse_run_config("", ["--config", str(written)], architecture=config.architecture)
    assert again == config
    assert engine_json(again) == engine_json(config)


def test_every_kind_of_value_can_be_written(small, tmp_path):
    metric = {'d\tä"q': [1, 2.5, {"x.y": "\\"}], "none": None, "empty": {}}
    (tmp_path / "a.json").write_text(json.dumps({"data_efficiency": metric}))
    words = ["--data-path", "0.5", "a b", "--train-iters", "3", "--lr", "1e-05"]
    config = parse_run_config("", [*words, "--deepspeed_config", str(tmp_path / "a.json")])
    content = tomllib.loads(write_run_file(config, "c"))
    del metric["none"]
    assert content["data_efficiency"] == metric
    assert content["data"]["data_path"] == ["0.5", "a b"]
    assert content["training"]["lr"] == 1e-5


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "run",
            ("train_tokens", "train_token"),
            r"small.toml: \[training\].train_token is not .*'train_tokens'",
        ),
        ("run", ("[training]", "[trainin]"), "trainin is not a known key; .*'training'"),
        ("run", ("train_tokens =", "hidden_size ="), r"'hidden_size' belongs into \[model\]"),
        ("run", ("102_400", "'many'"), "train_tokens is 'many': must be a whole number"),
        ("run", ("102_400", "1.5"), "train_tokens is 1.5: must be a whole number"),
        ("run", ('["base.toml"]', '["bas.toml"]'), "base names 'bas.toml', but there is no"),
        ("run", ('["base.toml"]', '["small.toml"]'), "builds on itself"),
        ("run", ('["base.toml"]', '"base.toml"'), "base is 'base.toml': must be a list"),
        ("run", ("[training]", "[training"), "is not valid TOML"),
        ("run", ("102_400", "9" * 5000), "is not valid TOML: Exceeds the limit"),
        ("run", ("102_400", "[" * 5000), "is not valid TOML: maximum recursion depth"),
        ("run", ("102_400", "2024-01-01"), "small.toml has a date or a time, which no setting is"),
        ("base", ("fp16 = true", "fp16 = 1"), "fp16 is 1: must be true or false"),
        ("base", ("lr = 1e-3", "lr = true"), "lr is True: must be a number"),
        ("base", ("lr = 1e-3", "lr_decay_style = 'cos'"), "must be one of cosine, linear"),
        (
            "base",
            ("lr = 1e-3", "max_grad_norm = 1"),
            "max_grad_norm is not a known key; known keys are",
        ),
        (
            "base",
            ("lr = 1e-3", "rampup_batch_size = [4, 4, 1.5]"),
            r"rampup_batch_size is \[4, 4, 1.5\]: must be a list of whole numbers",
        ),
        ("base", ('["corpus"]', "[1]"), r"data_path is \[1\]: must be a list of texts"),
        ("base", ('architecture = "gpt"', "logging = 3"), "logging is 3: must be a table"),
        ("base", ('"gpt"', '"t5"'), "architecture is 't5': must be one of gpt, bert"),
        ("base", ('"gpt"', '"bert"'), "is of a bert: start it with pretrain_bert.py"),
        (
            "base",
            ("[deepspeed]", "[deepspeed]\ntrain_batch_size = 3"),
            r"global_batch_size in \[training\]",
        ),
        ("run", ("enabled = true", "enabled = true\n[data_efficiency]\nseed = 8"), None),
        (
            "base",
            ("[deepspeed]", "[data_efficiency]\nseed = 8\n[deepspeed]"),
            "seed is 7 in .* but 8",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, file, change, message):
    texts = {"base": BASE, "run": RUN}
    assert change[0] in texts[file]
    texts[file] = texts[file].replace(*change, 1)
    path = write_run(tmp_path, **texts)
    if message is None:
        assert read(path).training.seed == 8
        return
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_model_needs_a_run_file_of_its_architecture():
    with pytest.raises(ConfigError, match="it changes a run file; name one by --config"):
        parse_run_config("", ["--model", "gpt_125m"])
    with pytest.raises(ConfigError, match="files of a gpt and of a bert are mixed"):
        read("gpt_ltd_300b", "--model", "bert_110m")


def test_a_mark_that_editors_put_before_a_file_is_no_part_of_it(tmp_path):
    (tmp_path / "a.toml").write_text("\ufeff[training]\r\nlr = 1\r\n", encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"training": {"lr": 1}}
