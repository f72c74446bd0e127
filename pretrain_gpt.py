"""Pretrains a GPT: model, data and loss for `megatron.training.pretrain`."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from megatron.command import run_command

import numpy as np
import torch

from data_efficiency import Engine, num_loss_positions
from data_efficiency.config import WINDOWS, load_config
from megatron.arguments import parse_run_config
from megatron.config import RunConfig
from megatron.data.blended_dataset import Dataset, open_dataset, open_validation
from megatron.data.document_pieces import open_pieces
from megatron.data.documents import Documents
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.vocabulary_check import check_vocabulary
from megatron.engine_json import engine_json
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from megatron.run_state import Batch, Int64Array, Task
from megatron.setting_rules import require
from megatron.tokenizer import Tokenizer, named_tokenizer
from megatron.training import pretrain


def make_model(config: RunConfig) -> GPTModel:
    """The GPT that the settings describe."""
    return GPTModel(config.model, backpropagated_share=config.training.selective_backprop)


def make_datasets(config: RunConfig) -> tuple[Dataset, Dataset | None]:
    """Training and validation samples (None: there are none), checked against the model's vocabulary and the tokenizer."""
    data = config.data
    tokenizer = named_tokenizer(data)
    documents = documents_of(config, tokenizer)
    options = {
        "split": data.split,
        "sequence_length": data.seq_length,
        "documents": documents,
    }
    training: Dataset
    if data.shortest_piece is None:
        training = open_dataset(GPTDataset, data.data_path, split_name="train", **options)
    else:
        training = open_pieces(data)
    check_vocabulary(training, data, config.model.vocab_size, tokenizer)
    return training, open_validation(GPTDataset, data.data_path, **options)


def documents_of(config: RunConfig, tokenizer: Tokenizer | None) -> Documents:
    """What the ends of documents change.

    Raises:
        ValueError: beside something that cannot keep documents.
    """
    data = config.data
    documents = Documents(
        reset_attention_mask=data.reset_attention_mask,
        reset_position_ids=data.reset_position_ids,
        eod_mask_loss=data.eod_mask_loss,
    )
    if tokenizer is not None:
        with contextlib.nullcontext() if documents.flags else contextlib.suppress(ValueError):
            documents = replace(documents, end_of_text=tokenizer.eod)
    if not documents.flags:
        return documents
    section = load_config(engine_json(config)).data_efficiency
    actions = {plan.action for plan in (*section.length_plans, *section.open_length_plans)}
    require(
        not (data.reset_position_ids and "reshape" in actions),
        "reset_position_ids",
        True,
        "seqlen_reshape lays rows end to end and counts positions anew: take seqlen_truncate",
    )
    in_rows = data.reset_attention_mask or data.reset_position_ids
    require(
        not (in_rows and section.token_superposition is not None),
        documents.flags[0],
        True,
        "token_superposition makes one position of tokens of two documents: remove one of the two",
    )
    return documents


def forward_step(engine: Engine, batch: Batch) -> tuple[torch.Tensor]:
    """The summed loss of a micro-batch."""
    others = {name: batch[name] for name in _BESIDE_TOKENS if name in batch}
    if engine.data_efficiency_config.feedback is None or not engine.module.training:
        return (engine(batch["tokens"], labels=batch["labels"], **others),)
    loss, rows = engine(batch["tokens"], labels=batch["labels"], by_row=True, **others)
    engine.note_rows(rows)
    return (loss,)


def count_loss_terms(batch: Batch) -> tuple[int]:
    """Positions of a micro-batch whose label is in the loss."""
    return (num_loss_positions(batch["labels"]),)


def bytes_of_tokens(config: RunConfig) -> Int64Array | None:
    """Bytes of text that each token id stands for; ids beyond the tokenizer's stand for none."""
    tokenizer = named_tokenizer(config.data)
    found = None if tokenizer is None else tokenizer.bytes_of_tokens
    if found is None:
        return None
    return np.pad(found, (0, max(0, config.model.vocab_size - len(found))))


_BESIDE_TOKENS = (*WINDOWS, "label_weights", "document_ids", "position_ids")
"""Entries of a batch that the model takes by the same name."""

TASK = Task(
    make_model=make_model,
    make_datasets=make_datasets,
    losses=("lm",),
    forward_step=forward_step,
    count_loss_terms=count_loss_terms,
    layer_class=TransformerLayer,
    bytes_of_tokens=bytes_of_tokens,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 at the end of the run, 75 where it is saved and not finished, 1 after an error."""
    return run_command(lambda words: pretrain(parse_run_config(__doc__ or "", words), TASK), argv)


if __name__ == "__main__":
    raise SystemExit(main())
