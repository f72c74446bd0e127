from dataclasses import fields

import pytest

from megatron.config import (
    RUN_KINDS,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    PretrainingLoggingConfig,
    RunConfig,
    TrainingConfig,
)


def config(architecture="gpt", logging=None, **data):
    return RunConfig(
        architecture=architecture,
        model=ModelConfig(),
        data=DataConfig(data_path=("x",), **data),
        training=TrainingConfig(train_iters=1),
        checkpoint=CheckpointConfig(),
        logging=PretrainingLoggingConfig(**(logging or {})),
    )


@pytest.mark.parametrize(
    "values",
    [{"mask_prob": 0.2}, {"mask_whole_words": True}, {"short_seq_prob": 0}, {"sample_seed": 1}],
)
def test_a_gpt_takes_no_settings_of_berts(values):
    assert config("bert", **values).architecture == "bert"
    with pytest.raises(ValueError, match=r"--.* is .*: .* it belongs to pretrain_bert.py"):
        config("gpt", **values)


@pytest.mark.parametrize("name", ["reset_attention_mask", "reset_position_ids", "eod_mask_loss"])
def test_a_bert_takes_no_settings_of_gpts(name):
    assert getattr(config(**{name: True}).data, name)
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is True: .* pretrain_gpt.py"):
        config("bert", **{name: True})


def test_a_bert_writes_no_texts():
    with pytest.raises(ValueError, match="a BERT writes no texts"):
        config("bert", logging={"sample_prompts": ("once",)})


def test_sequences_fit_the_position_embeddings():
    with pytest.raises(ValueError, match=r"--seq-length is 2048: must not exceed .* \(1024\)"):
        config(seq_length=2048)


@pytest.mark.parametrize(
    ("size", "model", "seq_length", "message"),
    [
        (5, {}, 1024, "--num-attention-heads is 12: 12 heads cannot be shared evenly"),
        (4, {"num_key_value_heads": 2}, 1024, "--num-key-value-heads is 2: 2 heads"),
        (4, {"ffn_hidden_size": 90}, 1024, "--ffn-hidden-size is 90: 90 inner channels"),
        (
            *(4, {"vocab_size": 9, "make_vocab_size_divisible_by": 2}, 1024),
            "--make-vocab-size-divisible-by is 2: 10 rows of the embedding .* or take --fsdp 3",
        ),
        (4, {}, 1022, "--seq-length is 1022: must be a multiple of --tensor-model-parallel-size"),
    ],
)
def test_processes_share_layers_and_rows_evenly(size, model, seq_length, message):
    def made(size):
        return RunConfig(
            model=ModelConfig(**model),
            data=DataConfig(data_path=("x",), seq_length=seq_length),
            training=TrainingConfig(train_iters=1, tensor_model_parallel_size=size),
            checkpoint=CheckpointConfig(),
            logging=PretrainingLoggingConfig(),
        )

    made(1)
    with pytest.raises(ValueError, match=message):
        made(size)


def test_a_setting_stands_in_one_table_of_its_kind():
    for kind in RUN_KINDS.values():
        assert len(kind.table_of) == sum(len(fields(group)) for group in kind.groups.values())
        assert kind.table_of["lr"] == "training"
