import json
from dataclasses import fields

import pytest

from data_efficiency import ConfigError, load_config
from data_efficiency.field_docs import field_docs
from megatron.arguments import (
    flag_name,
    make_parser,
    parse_run_config,
)
from megatron.config import CONFIG_GROUPS, ModelConfig
from megatron.recipes import SHIPPED

NEEDED = ["--data-path", "corpus", "--train-iters", "10"]


def test_every_field_is_documented_and_has_a_flag(capsys):
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["--help"])
    text = capsys.readouterr().out
    for config_class in CONFIG_GROUPS:
        docs = field_docs(config_class)
        for field in fields(config_class):
            assert docs[field.name].endswith(".")
            assert flag_name(field.name) in text


def test_defaults_are_those_of_the_dataclasses():
    config = parse_run_config("", NEEDED)
    assert config.model == ModelConfig()
    assert config.training.train_iters == 10


def test_flags_reach_their_fields():
    config = parse_run_config(
        "",
        [
            *NEEDED,
            *("--hidden-size", "96", "--swiglu", "--no-bf16", "--normalization", "rmsnorm"),
            *("--train-tokens", "3e5", "--min-lr", "1e-5"),
            *("--allow-missing-checkpoint", "--token-counter", "corpus"),
        ],
    )
    assert config.model.hidden_size == 96
    assert config.model.swiglu
    assert config.model.normalization == "rmsnorm"
    assert config.training.train_tokens == 300_000
    assert config.training.min_lr == 1e-5
    assert config.training.token_counter == "corpus"
    assert config.checkpoint.allow_missing_checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NEEDED, "--hidden", "96"], "unrecognized arguments: --hidden"),
        ([*NEEDED, "--train-tokens", "1.5"], "'1.5' is not a whole number"),
        ([*NEEDED, "--normalization", "batch"], "invalid choice"),
    ],
)
def test_flags_that_cannot_be_read(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        parse_run_config("", arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_all_that_is_missing_is_named_at_once():
    with pytest.raises(
        ValueError, match="^not given: --data-path, one of --train-iters, --train-s"
    ):
        parse_run_config("", [])


def write_json(path, content):
    path.write_text(json.dumps(content))
    return ["--deepspeed_config", str(path)]


PUBLISHED = {
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_clipping": 0.5,
    "fp16": {"enabled": True, "initial_scale_power": 11},
    "data_efficiency": {"seed": 1, "data_sampling": {"num_workers": 3}},
}


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (PUBLISHED, ["--seed", "2"], "data_efficiency.seed is 1 in .*, but --seed is 2: make them"),
        (PUBLISHED, ["--no-fp16"], "fp16.enabled is True in .*, but --fp16 is False"),
        ({"bf16": []}, [], r"a.json: bf16 must be a JSON object, not"),
        ({"gradient_clipping": "1"}, [], "a.json clip_grad is '1': must be a number"),
        ({"optimizer": {"type": "Adam"}}, [], "section 'optimizer': .* set by flags here"),
    ],
)
def test_files_that_are_refused(tmp_path, content, flags, message):
    with pytest.raises(ConfigError, match=message):
        parse_run_config("", [*NEEDED, *write_json(tmp_path / "a.json", content), *flags])


@pytest.mark.parametrize("architecture", ["gpt", "bert"])
def test_the_shipped_run_files_are_listed(architecture, capsys):
    with pytest.raises(SystemExit) as exit:
        parse_run_config("", ["--config", "list"], architecture=architecture)
    assert exit.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[::2]]
    assert listed == [name for name in SHIPPED.recipes if name.startswith(architecture)]


def test_the_json_of_a_recipe_is_printed(capsys):
    words = ["--config", "gpt_cl_ltd_300b", "--data-path", "corpus", "--print-json"]
    with pytest.raises(SystemExit) as exit:
        parse_run_config("", words)
    assert exit.value.code == 0
    content = load_config(json.loads(capsys.readouterr().out))
    assert len(content.data_efficiency.schedules) == 2
    assert content.engine_sections["zero_optimization"] == {"stage": 1}
