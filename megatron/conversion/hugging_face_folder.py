"""A model's folder as Hugging Face's `from_pretrained` reads it: configuration, weights, tokenizer."""

from pathlib import Path
from typing import Any

import torch

from data_efficiency import files
from megatron.conversion.bert import BERT_FAMILIES
from megatron.conversion.weights import Weights
from megatron.tokenizer import Tokenizer


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a folder's `config.json`, with today's names for older ones.

    Raises:
        FileNotFoundError: if there is none.
        ModuleNotFoundError: if transformers is not installed.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no Hugging Face folder: config.json is missing")
    with files.reading(folder / "config.json"):
        return _transformers().AutoConfig.from_pretrained(folder).to_dict()


def todays_names(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `config.json` as `read_config` gives them."""
    return _transformers().AutoConfig.for_model(**fields).to_dict()


def read_model(folder: Path) -> torch.nn.Module:
    """The folder's language model on the CPU, in evaluation, in the dtype it is stored in.

    BERT comes with its pooler and both heads; what the folder lacks of them is drawn, always the same.

    Raises:
        ValueError: if the weights are not those of the configuration, or something is damaged.
    """
    fields = read_config(folder)
    with torch.random.fork_rng(devices=[]), files.reading(folder):
        torch.manual_seed(0)
        model, found = _auto_class(fields).from_pretrained(
            folder, dtype="auto", local_files_only=True, output_loading_info=True
        )
    missing, left = found["missing_keys"], found["unexpected_keys"]
    if fields["model_type"] in BERT_FAMILIES:
        missing, left = ([n for n in names if "encoder." in n] for names in (missing, left))
    files.refuse_other_tensors(folder, missing, left)
    read: torch.nn.Module = model.eval()
    return read


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights by name, each once: without the names of tied ones."""
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def write_model(folder: Path, fields: dict[str, Any], weights: Weights) -> None:
    """Writes `config.json`, `generation_config.json` and safetensors into a folder.

    Args:
        fields: of `config.json`, `model_type` among them.
        weights: by their Hugging Face names, without those of tied ones.
    """
    transformers = _transformers()
    config = transformers.AutoConfig.for_model(**fields)
    with torch.device("meta"):
        model = _auto_class(fields).from_config(config)
    model.load_state_dict(dict(weights), strict=False, assign=True)
    model.tie_weights()
    left = [name for name, value in model.state_dict().items() if value.is_meta]
    if left:
        raise ValueError(f"no weights for {len(left)} tensors of the model, such as {left[0]}")
    model.to(next(iter(weights.values())).dtype)
    model.save_pretrained(folder)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` into a folder."""
    tokenizer.save(folder / "tokenizer.json")
    special: dict[str, Any] = dict(tokenizer.special_tokens)
    if "cls_token" in special:
        special["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    wrapped = _transformers().PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), model_max_length=max_length, **special
    )
    wrapped.save_pretrained(folder)


def token_ids(tokenizer: Tokenizer | None, *, with_ends: bool) -> dict[str, Any]:
    """The fields of `config.json` with the ids that begin, end and pad a text; None what there is not.

    Args:
        with_ends: whether texts begin and end: those of a GPT.
    """
    special = {} if tokenizer is None else tokenizer.special_tokens
    names = ("bos_token", "eos_token", "pad_token") if with_ends else ("pad_token",)
    ids: dict[str, Any] = {
        f"{name}_id": tokenizer.id_of(special[name]) if tokenizer and name in special else None
        for name in names
    }
    if with_ends and tokenizer is not None and len(tokenizer.end_ids) > 1:
        ids["eos_token_id"] = list(tokenizer.end_ids)
    return ids


def _auto_class(fields: dict[str, Any]) -> Any:
    transformers = _transformers()
    if fields["model_type"] in BERT_FAMILIES:
        return transformers.AutoModelForPreTraining
    return transformers.AutoModelForCausalLM


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415 - heavy and optional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "conversion needs transformers: pip install 'data-efficiency[huggingface]'"
        ) from error
    return transformers
