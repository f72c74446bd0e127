"""Hugging Face causal language models from a local folder, as reference models."""

from pathlib import Path
from typing import Any

import torch

from data_efficiency.analysis.reference_loss import ReferenceModel
from data_efficiency.files import reading, refuse_other_tensors
from data_efficiency.files.result_folder import sha256_of_file


def identity_of_huggingface_model(folder: Path) -> dict[str, Any]:
    """SHA-256 of the configuration and of each file of weights in a folder.

    Raises:
        FileNotFoundError: if the folder has no configuration or no weights in safetensors.
    """
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if len(files) == 1 or not files[0].is_file():
        raise FileNotFoundError(
            f"{folder} is no Hugging Face model: it needs config.json and *.safetensors; save the "
            "model there with save_pretrained"
        )
    return {file.name: sha256_of_file(file) for file in files}


def load_huggingface_model(device: torch.device, *, folder: Path) -> ReferenceModel:
    """The causal language model in a folder, on a device, in float32.

    Nothing is downloaded, unpickled or run from the folder.

    Raises:
        ModuleNotFoundError: if transformers is not installed.
        ValueError: if the weights are not those of the configuration, or something is damaged.
    """
    try:
        from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy and optional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Hugging Face models need transformers: pip install 'data-efficiency[huggingface]'"
        ) from error
    with reading(folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    model, found = loaded
    refuse_other_tensors(folder, found["missing_keys"], found["unexpected_keys"])
    model = model.to(device).eval()

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
        return output

    return ReferenceModel(
        logits=logits,
        vocab_size=model.config.vocab_size,
        max_length=getattr(model.config, "max_position_embeddings", None),
    )
