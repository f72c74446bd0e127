from dataclasses import fields

import pytest

from megatron.arguments import field_docs, flag_name, make_parser, parse_run_config
from megatron.config import CONFIG_GROUPS, ModelConfig

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
            *("--train-tokens", "3e5", "--min-lr", "1e-5", "--deepspeed_config", "a.json"),
            *("--allow-missing-checkpoint", "--token-counter", "corpus"),
        ],
    )
    assert config.model.hidden_size == 96
    assert config.model.swiglu
    assert config.model.normalization == "rmsnorm"
    assert config.training.train_tokens == 300_000
    assert config.training.min_lr == 1e-5
    assert config.training.deepspeed_config == "a.json"
    assert config.training.token_counter == "corpus"
    assert config.checkpoint.allow_missing_checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NEEDED, "--hidden", "96"], "unrecognized arguments: --hidden"),
        ([*NEEDED, "--train-tokens", "1.5"], "'1.5' is not a whole number"),
        ([*NEEDED, "--normalization", "batch"], "invalid choice"),
        (["--train-iters", "10"], "--data-path"),
    ],
)
def test_flags_that_cannot_be_read(arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        parse_run_config("", arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
