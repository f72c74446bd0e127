"""A checkpoint of ours as a reference model, to measure how hard samples are."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from data_efficiency import ReferenceModel, files
from data_efficiency.files import result_folder
from megatron.checkpoint.files import (
    FORMAT,
    MODEL,
    latest_checkpoint,
    manifest_of,
    read_state,
    read_weights,
)
from megatron.config import ModelConfig
from megatron.model.gpt_model import GPTModel


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint that a folder is, or the latest of the run that it is; else None."""
    manifest = folder / result_folder.MANIFEST_FILE
    if manifest.is_file() and files.read_json_object(manifest).get("format") == FORMAT:
        return folder
    return latest_checkpoint(folder)


def identity_of_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """SHA-256 of a checkpoint's weights, of those of their files where there are several, and its step."""
    manifest = manifest_of(checkpoint)
    sums = [
        entry["sha256"]
        for name, entry in sorted(manifest["files"].items())
        if name.startswith(f"{MODEL}")
    ]
    sha256 = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
    return {"step": manifest["step"], "sha256": sha256}


def load_reference_model(device: torch.device, *, checkpoint: Path) -> ReferenceModel:
    """The GPT model of a checkpoint, on a device, without dropout.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file was changed.
    """
    config = ModelConfig(**read_state(checkpoint)["model"])
    model = GPTModel(config)
    model.load_state_dict(read_weights(checkpoint))
    return ReferenceModel(
        logits=model.to(device).eval(),
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
    )
