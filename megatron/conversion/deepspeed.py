"""Checkpoints of Megatron-DeepSpeed without pipeline parallelism, as settings and weights of ours.

They are pickles: read with `weights_only`, every foreign class in them replaced by one that does
nothing, so no code of the file is ever run.

Source: Megatron-DeepSpeed's `mp_rank_00_model_states.pt`, checkpoint version 3.0: `module` holds
nested weights, `args` the command line. Queries, keys and values lie together by head:
[key-value heads, queries of each + 2, head size].
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from data_efficiency import files
from megatron.config import ModelConfig
from megatron.conversion.gpt import refuse_other_values
from megatron.conversion.vocabulary import padding_multiple

_FILE, _ANY_FILE = "mp_rank_00_model_states.pt", "*_model_states.pt"
_FIXED: dict[str, tuple[Any, ...]] = {
    "rotary_percent": (1.0, 1),
    "squared_relu": (False,),
    "apply_layernorm_1p": (False,),
    "apply_residual_connection_post_layernorm": (False,),
    "num_experts": ([1], 1, None),
    "tensor_model_parallel_size": (1,),
    "pipeline_model_parallel_size": (1,),
}
# Older and newer names of the same thing.
_RENAMED = (
    ("language_model.transformer.", "language_model.encoder."),
    (".attention.", ".self_attention."),
    ("language_model.embedding.", "language_model."),
    ("language_model.encoder.", "language_model."),
    ("language_model.output_layer.", "output_layer."),
)
_QKV = ".self_attention.query_key_value."


class Inert:
    """Stands for an object of a foreign class; keeps its attributes and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def model_states_file(folder: Path) -> Path | None:
    """The file with the weights, of a step's folder or the latest of a run; None where there is none.

    Raises:
        ValueError: if the model is split over tensor-parallel ranks or pipeline stages, or `latest` is
            damaged.
    """
    step = _step_folder(folder)
    if list(step.glob("layer_*-model_states.pt")):
        raise ValueError(
            f"{step} was written with pipeline parallelism: only checkpoints of runs with"
            " --no-pipeline-parallel can be read"
        )
    files = sorted(step.glob("mp_rank_*_model_states.pt"))
    if len(files) > 1:
        raise ValueError(
            f"{step} is split over {len(files)} tensor-parallel ranks: only checkpoints of runs with"
            " one can be read"
        )
    return step / _FILE if files else None


def _step_folder(folder: Path) -> Path:
    pointer = folder / "latest"
    if not pointer.is_file():
        return folder
    name = _name_beside(pointer)
    steps = {path.parent.name for path in folder.glob(f"*/{_ANY_FILE}")}
    if steps and name not in steps:
        raise ValueError(
            f"{pointer} says {name!r}, where no checkpoint lies; name one of {', '.join(sorted(steps))}"
        )
    return folder / name


def _name_beside(pointer: Path) -> str:
    """The name of a folder beside it, which a pointer holds."""
    name = pointer.read_bytes().decode(errors="replace").strip()
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name:
        raise ValueError(f"{pointer} says {name[:40]!r}, which names no folder beside it")
    return name


def step_of(file: Path) -> int:
    """The step at which a file was written, by its folder's name or else by what is in it."""
    named = re.fullmatch(r"global_step(\d+)", file.parent.name)
    return int(named[1] if named else _read(file).get("iteration", 0))


def read_megatron_deepspeed(
    file: Path, vocab_size: int | None
) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Settings and weights of the GPT in a Megatron-DeepSpeed checkpoint.

    Args:
        vocab_size: entries of the tokenizer's vocabulary; None takes all rows of the embedding,
            those that pad it too.

    Raises:
        ValueError: if something else is in the file, or our model lacks one of its settings.
    """
    content = _read(file)
    if not {"module", "args"} <= content.keys():
        raise ValueError(f"{file} is no Megatron-DeepSpeed checkpoint: it has no module or no args")
    arguments = vars(content["args"])
    flat = dict(_flatten(content["module"]))
    weights = {_our_name(name): value for name, value in flat.items() if _is_weight(name)}
    rows = weights["language_model.word_embeddings.weight"].shape[0]
    config = _config(arguments, rows if vocab_size is None else vocab_size, rows)
    for name in [name for name in weights if _QKV in name]:
        weights[name] = _by_kind(weights[name], config)
    return config, weights


def _read(file: Path) -> dict[str, Any]:
    with files.reading(file):
        # A class of its own for each name: torch tells what it may make by the class.
        foreign: list[Any] = [
            (type("Inert", (Inert,), {}), name)
            for name in torch.serialization.get_unsafe_globals_in_checkpoint(file)
        ]
        with torch.serialization.safe_globals(foreign):
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return content


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield prefix + name, value


def _is_weight(name: str) -> bool:
    # The table of rotary frequencies is computed, and what pipelines share is there twice.
    return not name.endswith("inv_freq") and not name.startswith("word_embeddings_for_head")


def _our_name(name: str) -> str:
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name


def _config(arguments: Mapping[str, Any], vocab_size: int, rows: int) -> ModelConfig:
    refuse_other_values(arguments, _FIXED, "the checkpoint's args")
    get = arguments.get
    return ModelConfig(
        num_layers=arguments["num_layers"],
        hidden_size=arguments["hidden_size"],
        num_attention_heads=arguments["num_attention_heads"],
        num_key_value_heads=get("num_key_value_heads"),
        ffn_hidden_size=get("ffn_hidden_size"),
        vocab_size=vocab_size,
        make_vocab_size_divisible_by=padding_multiple(vocab_size, rows),
        max_position_embeddings=arguments["max_position_embeddings"],
        use_rotary_position_embeddings=get("use_rotary_position_embeddings", False),
        rotary_position_embeddings_theta=float(get("rope_theta", 10000)),
        normalization=get("normalization", "layernorm"),
        layernorm_epsilon=get("layernorm_epsilon", 1e-5),
        swiglu=get("swiglu", False),
        disable_bias_linear=not get("add_bias_linear", True),
        untie_embeddings_and_output_weights=get("untie_embeddings_and_output_weights", False),
        attention_dropout=get("attention_dropout", 0.0),
        hidden_dropout=get("hidden_dropout", 0.0),
        init_method_std=get("init_method_std", 0.02),
    )


def _by_kind(tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Rows by head as rows of all queries, then all keys, then all values."""
    queries = config.num_attention_heads // config.kv_heads
    heads = tensor.unflatten(0, (config.kv_heads, queries + 2, config.head_size))
    parts = heads.split((queries, 1, 1), dim=1)
    return torch.cat([part.flatten(0, 2) for part in parts])
