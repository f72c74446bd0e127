"""Pretrains a GPT: model, data and loss for `megatron.training.pretrain`."""

from collections.abc import Sequence

from megatron.command import run_command

import numpy as np
import torch

from data_efficiency import Engine, num_loss_positions
from data_efficiency.config import WINDOWS
from megatron.arguments import parse_run_config
from megatron.config import RunConfig
from megatron.data.blended_dataset import Dataset, open_dataset, open_validation
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.vocabulary_check import check_vocabulary
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from megatron.run_state import Batch, Int64Array, Task
from megatron.tokenizer import named_tokenizer
from megatron.training import pretrain


def make_model(config: RunConfig) -> GPTModel:
    """The GPT that the settings describe."""
    return GPTModel(config.model)


def make_datasets(config: RunConfig) -> tuple[Dataset, Dataset | None]:
    """Training and validation samples (None: there are none), checked against the model's vocabulary and the tokenizer."""
    data = config.data
    options = {"split": data.split, "sequence_length": data.seq_length}
    training = open_dataset(GPTDataset, data.data_path, split_name="train", **options)
    check_vocabulary(training, data, config.model.vocab_size, named_tokenizer(data))
    return training, open_validation(GPTDataset, data.data_path, **options)


def forward_step(engine: Engine, batch: Batch) -> tuple[torch.Tensor]:
    """The summed loss of a micro-batch."""
    others = {name: batch[name] for name in (*WINDOWS, "label_weights") if name in batch}
    return (engine(batch["tokens"], labels=batch["labels"], **others),)


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
