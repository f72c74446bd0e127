"""Pretrains a GPT: model, data and loss for `megatron.training.pretrain`."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from megatron.arguments import parse_run_config
from megatron.config import RunConfig, require
from megatron.data.blended_dataset import Dataset, in_proportion, open_gpt_dataset
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from megatron.run_state import Batch, Task
from megatron.tokenizer import build_tokenizer
from megatron.training import pretrain


def make_model(config: RunConfig) -> GPTModel:
    """The GPT that the settings describe."""
    return GPTModel(config.model)


def make_datasets(config: RunConfig) -> tuple[Dataset, Dataset]:
    """Training and validation samples, checked against the model's vocabulary and the tokenizer."""
    data = config.data
    datasets = [
        open_gpt_dataset(
            data.data_path, split_name=name, split=data.split, sequence_length=data.seq_length
        )
        for name in ("train", "valid")
    ]
    corpus, vocab_size = " ".join(data.data_path), datasets[0].vocab_size
    require(
        vocab_size is None or vocab_size <= config.model.vocab_size,
        "vocab_size",
        config.model.vocab_size,
        f"the corpus {corpus} was made with a vocabulary of {vocab_size}",
    )
    if data.tokenizer_file is not None or data.vocab_file is not None:
        tokenizer = build_tokenizer(
            tokenizer_file=data.tokenizer_file,
            vocab_file=data.vocab_file,
            merge_file=data.merge_file,
        )
        expected = datasets[0].identity["tokenizer"]
        require(
            expected in (None, tokenizer.fingerprint),
            "tokenizer_file",
            data.tokenizer_file or data.vocab_file,
            f"the corpus {corpus} was made with another tokenizer",
        )
    return datasets[0], in_proportion(datasets[1])


def forward_step(engine: Any, batch: Batch) -> tuple[torch.Tensor]:
    """The summed loss of a micro-batch."""
    return (engine(batch["tokens"], labels=batch["labels"]),)


def count_loss_terms(batch: Batch) -> tuple[int]:
    """Positions of a micro-batch whose label is in the loss."""
    return (int((batch["labels"] != -100).sum()),)


TASK = Task(
    make_model=make_model,
    make_datasets=make_datasets,
    losses=("lm",),
    forward_step=forward_step,
    count_loss_terms=count_loss_terms,
    layer_class=TransformerLayer,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a run that ended as asked, 1 after an error."""
    try:
        pretrain(parse_run_config(__doc__ or "", argv), TASK)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
