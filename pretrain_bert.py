"""Pretrains a BERT: model, data and losses for `megatron.training.pretrain`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from megatron.command import run_command

import torch

from data_efficiency import IGNORED_LABEL, Engine
from megatron.arguments import parse_run_config
from megatron.config import RunConfig
from megatron.data.bert_dataset import BertDataset, BertSettings, BertVocabulary
from megatron.data.blended_dataset import Dataset, open_dataset, open_validation
from megatron.data.vocabulary_check import check_vocabulary
from megatron.model.bert_model import BertModel
from megatron.model.transformer import TransformerLayer
from megatron.run_state import Batch, Task, model_shape
from megatron.setting_rules import require
from megatron.tokenizer import named_tokenizer
from megatron.training import pretrain


def make_model(config: RunConfig) -> BertModel:
    """The BERT that the settings describe."""
    num_token_types = config.model.num_token_types
    require(
        num_token_types >= 2, "num_token_types", num_token_types, "BERT tells two segments apart"
    )
    return BertModel(config.model)


def make_datasets(config: RunConfig) -> tuple[Dataset, Dataset | None]:
    """Training and validation samples (None: there are none), checked against the model's vocabulary and the tokenizer.

    Which tokens are masked follows `--seed` in training. In evaluation it is the same for every run.
    """
    data = config.data
    settings = BertSettings(
        sequence_length=data.seq_length,
        seed=data.sample_seed,
        short_seq_prob=data.short_seq_prob,
        mask_prob=data.mask_prob,
    )
    tokenizer = named_tokenizer(data)
    require(
        tokenizer is not None or not data.mask_whole_words,
        "mask_whole_words",
        data.mask_whole_words,
        "give the tokenizer by --vocab-file or --tokenizer-file: it tells which tokens continue a word",
    )
    options: dict[str, Any] = {"split": data.split}
    if tokenizer is not None:
        whole_words = data.mask_whole_words
        options["vocabulary"] = BertVocabulary.of_tokenizer(tokenizer, whole_words=whole_words)
    drawn = replace(settings, mask_seed=config.training.seed)
    training = open_dataset(BertDataset, data.data_path, drawn, split_name="train", **options)
    check_vocabulary(training, data, config.model.vocab_size, tokenizer)
    return training, open_validation(BertDataset, data.data_path, settings, **options)


def forward_step(engine: Engine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """A micro-batch's summed loss of the masked tokens, and of the order of the segments."""
    others = ("token_types", "padding_mask", "labels", "sentence_labels")
    losses: tuple[torch.Tensor, torch.Tensor] = engine(
        batch["tokens"], **{name: batch[name] for name in others}
    )
    return losses


def count_loss_terms(batch: Batch) -> tuple[int, int]:
    """Masked tokens and rows of a micro-batch."""
    return int((batch["labels"] != IGNORED_LABEL).sum()), len(batch["sentence_labels"])


TASK = Task(
    make_model=make_model,
    make_datasets=make_datasets,
    losses=("masked_lm", "sentence"),
    forward_step=forward_step,
    count_loss_terms=count_loss_terms,
    layer_class=TransformerLayer,
    make_shape=lambda config: replace(model_shape(config), masked_lm_head=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 at the end of the run, 75 where it is saved and not finished, 1 after an error."""
    return run_command(
        lambda words: pretrain(
            parse_run_config(__doc__ or "", words, architecture="bert", num_token_types=2), TASK
        ),
        argv,
    )


if __name__ == "__main__":
    raise SystemExit(main())
