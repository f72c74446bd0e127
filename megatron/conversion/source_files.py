"""What a Hugging Face folder says besides its weights, kept beside our checkpoint so that it goes back as it came.

The files stand in the run's folder under their own names, but for `config.json`, by which a Hugging Face
folder is known.
"""

import shutil
from pathlib import Path
from typing import Any

from megatron.checkpoint.model import checkpoint_in
from megatron.evaluation.checkpoint_tokenizer import TOKENIZER_FILE, tokenizer_of
from megatron.tokenizer import Tokenizer
from megatron.tokenizer.special_tokens import json_object

CONFIG_COPY = "huggingface_config.json"
CONFIG_FILES = ("config.json", CONFIG_COPY)
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
)


def source_of(folder: Path) -> Path | None:
    """The folder that holds a Hugging Face folder's files: the run of a folder; None where it has none."""
    checkpoint = checkpoint_in(folder)
    near = [folder] if checkpoint is None else [folder, checkpoint.parent]
    return next((path for path in near if (path / CONFIG_COPY).is_file()), None)


def source_config(source: Path | None) -> dict[str, Any]:
    """The fields of the source's `config.json`; none without a source."""
    if source is None:
        return {}
    return next(filter(None, (json_object(source / name) for name in CONFIG_FILES)), {})


def has_tokenizer(source: Path | None, tokenizer: Tokenizer | None) -> bool:
    """Whether a tokenizer is the source's own."""
    own = None if source is None else tokenizer_of(source)
    return own is not None and tokenizer is not None and own.fingerprint == tokenizer.fingerprint


def copy_files(source: Path, folder: Path, *, config_name: str | None = None) -> None:
    """Copy what the source says of its tokenizer and of generation.

    Args:
        config_name: name of a copy of its `config.json`; None to leave it out.
    """
    for name in (*TOKENIZER_FILES, GENERATION_FILE):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if config_name is not None:
        config = next(source / name for name in CONFIG_FILES if (source / name).is_file())
        shutil.copyfile(config, folder / config_name)
