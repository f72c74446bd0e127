"""A small BERT with a WordPiece tokenizer, and small tasks in the official forms."""

import json

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from megatron.config import (
    GlueCheckpointConfig,
    GlueDataConfig,
    GlueRunConfig,
    GlueTrainingConfig,
    LoggingConfig,
    ModelConfig,
    PretrainedBertConfig,
)
from megatron.finetuning.training import make_classifier, make_run, train
from megatron.model.bert_model import BertModel
from megatron.reporting import read_log
from tests.json_sections import dropping_config
from tests.megatron.small_models import make_model, save_run

CONTROL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "the", "film", "was", "very", "not", "a", "plot", "!"]
CONFIG = ModelConfig(
    num_layers=4,
    hidden_size=16,
    num_attention_heads=2,
    vocab_size=len(CONTROL) + len(WORDS),
    make_vocab_size_divisible_by=8,
    max_position_embeddings=32,
    num_token_types=2,
    normalization_position="after",
)

RANDOM_LTD = dropping_config(steps=1000, model_mask_name="attention_mask", model_type="encoder") | {
    "train_batch_size": 8
}
DROPPING = RANDOM_LTD["data_efficiency"]
"""The section; in a run file its switch is the setting `random_ltd`."""


def write_tokenizer(path):
    backend = tokenizers.Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(CONTROL + WORDS)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(CONTROL)
    backend.save(str(path))
    return path


def save_bert_run(folder):
    run = save_run(folder, make_model(BertModel, CONFIG))
    write_tokenizer(run / "tokenizer.json")
    return run


def write_sentiment(folder, num_train=64):
    """SST-2 in the official form: whether "good" or "bad" is in the sentence."""
    (folder / "SST-2").mkdir(parents=True)
    for part, number in (("train", num_train), ("dev", 40)):
        rows = ["sentence\tlabel"]
        for i in range(number):
            filler = " ".join(WORDS[2 + (i * k) % 8] for k in range(1, 2 + i % 5))
            rows.append(f'the "{("bad", "good")[i % 2]}" film {filler}\t{i % 2}')
        (folder / "SST-2" / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "SST-2" / "test.tsv").write_text("must never be read")
    return folder


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def glue_config(folder, *, section=None, engine=None, save_interval=1000, **changes):
    """A run of twelve epochs of eight examples a step, with a line of its log for each."""
    settings = {"epochs": 12, "global_batch_size": 8, "micro_batch_size": 8, "dropout": 0.0}
    settings |= {"lr": 3e-3, "seed": 1}
    data = {"max_length": 32, "group_by_length": changes.pop("group_by_length", False)}
    return GlueRunConfig(
        model=PretrainedBertConfig(pretrained="run"),
        data=GlueDataConfig(data="data", task="SST-2", **data),
        training=GlueTrainingConfig(**settings | changes),
        checkpoint=GlueCheckpointConfig(save=str(folder), save_interval=save_interval),
        logging=LoggingConfig(log_interval=1),
        data_efficiency=section or {},
        engine=engine or {},
    )


def finetuned(prepared, config, before=lambda run: None):
    """The run and its log, after training; `before` gets the run at its beginning."""
    model, task, sets = prepared
    run = make_run(config, make_classifier(config, model, task), task, sets, {})
    before(run)
    assert train(config, run, task, sets) == 0
    return run, read_log(config.checkpoint.save)
