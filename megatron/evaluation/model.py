"""A trained GPT ready to be asked: weights, tokenizer and device."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from megatron.checkpoint.files import read_state, read_weights
from megatron.checkpoint.model import checkpoint_in
from megatron.config import ModelConfig
from megatron.conversion.bert import is_bert
from megatron.conversion.model import Model, read_any
from megatron.conversion.vocabulary import known_to
from megatron.evaluation.checkpoint_tokenizer import tokenizer_for
from megatron.model.gpt_model import GPTModel
from megatron.tokenizer import Tokenizer

_OTHER_ARCHITECTURE = "{} is a checkpoint of another architecture: a GPT is needed here"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def own_gpt(folder: Path) -> Model:
    """The GPT of a run, or of one of its checkpoints.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is no GPT.
    """
    checkpoint = checkpoint_in(folder)
    if checkpoint is None:
        hint = (
            "; it is a Hugging Face folder: convert it with tools/convert_checkpoint.py"
            if (folder / "config.json").is_file()
            else "; give a run of pretrain_gpt.py or one of its global_step folders"
        )
        raise FileNotFoundError(f"{folder} holds no checkpoint of ours{hint}")
    weights = read_weights(checkpoint)
    return Model(_gpt_config(read_state(checkpoint)["model"], weights, checkpoint), weights)


def any_gpt(folder: Path) -> Model:
    """As `own_gpt`, of a Hugging Face folder too: it is converted in memory.

    Raises:
        ModuleNotFoundError: if transformers is needed and not installed.
    """
    if not (folder / "config.json").is_file():
        return own_gpt(folder)
    read = read_any(folder)
    if is_bert(read.weights):
        raise ValueError(_OTHER_ARCHITECTURE.format(folder))
    return read


def load_for_evaluation(
    folder: Path,
    *,
    dtype: str = "float32",
    device: torch.device | None = None,
    tokenizer: Tokenizer | None = None,
    read: Callable[[Path], Model] = own_gpt,
) -> tuple[GPTModel, Tokenizer]:
    """The GPT in a folder, without dropout, and its tokenizer.

    Args:
        read: `own_gpt` or `any_gpt`.

    Raises:
        FileNotFoundError: if there is no model, or no tokenizer.
        ValueError: if it is no GPT, or the tokenizer is of another model.
    """
    config, weights, *_ = read(folder)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{folder}: {name} has numbers that are not finite")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}: must be float32 or bfloat16")
    tokenizer = tokenizer_for(folder, config.vocab_size, tokenizer)
    with torch.device("meta"):
        model = GPTModel(known_to(tokenizer, config))
    model.load_state_dict(weights, assign=True)
    return model.to(device=device, dtype=_DTYPES[dtype]).eval(), tokenizer


def _gpt_config(
    settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor], checkpoint: Path
) -> ModelConfig:
    """The settings of a GPT; an error if they, or the weights, are those of something else."""
    known = {field.name for field in fields(ModelConfig)}
    fits = settings.keys() <= known and not is_bert(weights)
    config = ModelConfig(**settings) if fits else None
    if config is not None:
        with torch.device("meta"):
            expected = GPTModel(config).state_dict()
        if {name: value.shape for name, value in expected.items()} == {
            name: value.shape for name, value in weights.items()
        }:
            return config
    raise ValueError(_OTHER_ARCHITECTURE.format(checkpoint))
