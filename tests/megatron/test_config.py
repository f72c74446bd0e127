import pytest

from megatron.config import (
    CheckpointConfig,
    DataConfig,
    LoggingConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)


@pytest.mark.parametrize(
    ("config_class", "values", "message"),
    [
        (ModelConfig, {"num_layers": 0}, "--num-layers is 0: must be positive"),
        (ModelConfig, {"hidden_size": 100}, r"--hidden-size is 100: must be a multiple of --num"),
        (ModelConfig, {"num_key_value_heads": 5}, r"must divide --num-attention-heads \(12\)"),
        (
            ModelConfig,
            {"hidden_size": 36, "use_rotary_position_embeddings": True},
            "even number of channels",
        ),
        (ModelConfig, {"hidden_dropout": 1.0}, "--hidden-dropout is 1.0"),
        (DataConfig, {"data_path": ("x",), "seq_length": 0}, "--seq-length is 0"),
        (DataConfig, {"data_path": ("x",), "num_workers": -1}, "--num-workers is -1"),
        (TrainingConfig, {}, "give --train-iters"),
        (
            TrainingConfig,
            {"train_iters": 1, "global_batch_size": 10, "micro_batch_size": 4},
            r"--global-batch-size is 10: must be a multiple of --micro-batch-size \(4\)",
        ),
        (
            TrainingConfig,
            {"train_iters": 1, "lr_decay_iters": 5, "lr_decay_tokens": 5},
            "give one of",
        ),
        (TrainingConfig, {"train_iters": 1, "min_lr": 1.0}, "--min-lr is 1.0"),
        (TrainingConfig, {"train_iters": 1, "eval_interval": 0}, "--eval-interval is 0"),
        (CheckpointConfig, {"save_interval": 0}, "--save-interval is 0"),
        (CheckpointConfig, {"keep_last": -1}, "--keep-last is -1"),
        (LoggingConfig, {"log_interval": 0}, "--log-interval is 0"),
    ],
)
def test_rules(config_class, values, message):
    with pytest.raises(ValueError, match=message):
        config_class(**values)


@pytest.mark.parametrize(
    "values",
    [{"mask_prob": 0.2}, {"mask_whole_words": True}, {"short_seq_prob": 0}, {"sample_seed": 1}],
)
def test_a_gpt_takes_no_settings_of_berts(values):
    def config(architecture):
        return RunConfig(
            architecture=architecture,
            model=ModelConfig(),
            data=DataConfig(data_path=("x",), **values),
            training=TrainingConfig(train_iters=1),
            checkpoint=CheckpointConfig(),
            logging=LoggingConfig(),
        )

    assert config("bert").architecture == "bert"
    with pytest.raises(ValueError, match=r"--.* is .*: .* it belongs to pretrain_bert.py"):
        config("gpt")


def test_sizes_that_are_derived():
    config = ModelConfig(hidden_size=768, vocab_size=50257)
    assert (config.ffn_size, config.kv_heads, config.head_size) == (3072, 12, 64)
    assert config.padded_vocab_size == 50304
    assert ModelConfig(swiglu=True).ffn_size == 2048
    assert ModelConfig(ffn_hidden_size=100).ffn_size == 100
    assert ModelConfig(num_key_value_heads=4).kv_heads == 4
    assert TrainingConfig(train_iters=1, micro_batch_size=6).batch_size == 6


def test_sequences_fit_the_position_embeddings():
    with pytest.raises(ValueError, match=r"--seq-length is 2048: must not exceed .* \(1024\)"):
        RunConfig(
            model=ModelConfig(),
            data=DataConfig(data_path=("x",), seq_length=2048),
            training=TrainingConfig(train_iters=1),
            checkpoint=CheckpointConfig(),
            logging=LoggingConfig(),
        )
