"""Layer classes we know, and what the JSON says of others."""

import inspect
from collections import Counter
from dataclasses import replace

from torch import nn

from data_efficiency.config import RandomLTDConfig
from data_efficiency.routing.layer_interface import LayerInterface

_BY_POSITION = LayerInterface(
    masks=("attention_mask",),
    cross_masks=("encoder_attention_mask",),
    token_tables={"position_ids": 1, "position_embeddings": 1},
    untouched=("encoder_hidden_states", "cache_position"),
    without_rows=("cache_position",),
    complete=True,
)
_HUGGING_FACE = (
    "bert.BertLayer",
    "clip.CLIPEncoderLayer",
    "deepseek_v3.DeepseekV3DecoderLayer",
    "deit.DeiTLayer",
    "dinov2.Dinov2Layer",
    "distilbert.TransformerBlock",
    "electra.ElectraLayer",
    "falcon.FalconDecoderLayer",
    "gemma2.Gemma2DecoderLayer",
    "gemma3.Gemma3DecoderLayer",
    "gpt2.GPT2Block",
    "gpt_neox.GPTNeoXLayer",
    "llama.LlamaDecoderLayer",
    "mistral.MistralDecoderLayer",
    "mixtral.MixtralDecoderLayer",
    "modernbert.ModernBertEncoderLayer",
    "olmo2.Olmo2DecoderLayer",
    "opt.OPTDecoderLayer",
    "phi3.Phi3DecoderLayer",
    "qwen2.Qwen2DecoderLayer",
    "qwen2_moe.Qwen2MoeDecoderLayer",
    "qwen3.Qwen3DecoderLayer",
    "qwen3_moe.Qwen3MoeDecoderLayer",
    "roberta.RobertaLayer",
    "smollm3.SmolLM3DecoderLayer",
    "starcoder2.Starcoder2DecoderLayer",
    "vit.ViTLayer",
    "whisper.WhisperDecoderLayer",
    "whisper.WhisperEncoderLayer",
)
"""Their arguments have one meaning each in all of transformers; no layer takes all of them."""

PRESETS: dict[str, LayerInterface] = {
    "megatron.model.transformer.TransformerLayer": LayerInterface(
        masks=("attention_mask",),
        token_tables=dict.fromkeys(
            ("rotary_cos", "rotary_sin", "window_positions", "document_ids"), 1
        ),
        complete=True,
    ),
    "timm.models.vision_transformer.Block": LayerInterface(masks=("attn_mask",), complete=True),
} | {
    "transformers.models.{0}.modeling_{0}.{1}".format(*name.split(".")): _BY_POSITION
    for name in _HUGGING_FACE
}
"""Layer classes we know, by the module and name of the class."""


# Of the last three, parts that replace linear maps.
_TESTED_PACKAGES = ("megatron", "timm", "torch", "transformers", "bitsandbytes", "peft", "torchao")


def preset_of(layer_class: type) -> LayerInterface | None:
    """The preset of the class, or of the first class it derives from that has one."""
    names = (f"{ancestor.__module__}.{ancestor.__qualname__}" for ancestor in layer_class.__mro__)
    return next((PRESETS[name] for name in names if name in PRESETS), None)


def is_as_shipped(layer: nn.Module) -> bool:
    """Whether no part of a layer runs code of others than the packages that presets were tested with."""
    return not any(
        type(part).__module__.split(".")[0] not in _TESTED_PACKAGES or "forward" in vars(part)
        for part in layer.modules()
    )


def known_layer_class(model: nn.Module) -> type[nn.Module]:
    """The class of a model's layers, where it is one we know: what `convert_to_random_ltd` needs.

    Raises:
        ValueError: if no layer or more than one class of them is known, naming what was found.
    """
    classes = Counter(type(module) for module in model.modules())
    known = [layer_class for layer_class in classes if preset_of(layer_class) is not None]
    if len(known) == 1:
        return known[0]
    repeated = [f"{one.__name__} ({count})" for one, count in classes.items() if count > 1]
    found = ", ".join(one.__name__ for one in known) or "none"
    raise ValueError(
        f"{type(model).__name__} has layers of {found} of the classes that random-LTD knows, not of "
        f"one; it has {', '.join(repeated)}: give convert_to_random_ltd the class of the layers and a "
        "LayerInterface"
    )


def mask_name_of(layer_class: type[nn.Module]) -> str | None:
    """How the `forward` of a class calls its mask; None where it has none, or arguments have known meanings.

    Raises:
        ValueError: if it takes several.
    """
    if preset_of(layer_class) is not None or _is_of_transformers(layer_class):
        return None
    names = [name for name in inspect.signature(layer_class.forward).parameters if "mask" in name]
    if len(names) > 1:
        raise ValueError(
            f"{layer_class.__name__}.forward takes {', '.join(names)}: say which is the attention mask "
            "(mask_name=, in the JSON file model_mask_name), or give convert_to_random_ltd a LayerInterface"
        )
    return names[0] if names else None


def _is_of_transformers(layer_class: type) -> bool:
    packages = {ancestor.__module__.split(".")[0] for ancestor in layer_class.__mro__}
    return bool(packages & {"transformers", "transformers_modules"})


def interface_of(layer_class: type, settings: RandomLTDConfig | None) -> LayerInterface:
    """The preset of the class or of a class it derives from; else what the JSON says.

    Args:
        settings: None where no token is dropped; then a mask is what the class calls so.

    For other classes of transformers, arguments mean what they do there; whether that is all of it, the
    proof at the first forward tells.
    """
    preset = preset_of(layer_class)
    if preset is not None:
        return replace(preset, proved=True)
    usual = _is_of_transformers(layer_class)
    base = replace(_BY_POSITION, complete=False) if usual else LayerInterface()
    mask = mask_name_of(layer_class) if settings is None else settings.model_mask_name
    is_batch_first = settings is None or settings.hidden_state_order == "batch_seq_dim"
    return replace(
        base,
        sequence_axis=1 if is_batch_first else 0,
        masks=base.masks if mask is None or mask in base.masks else (*base.masks, mask),
    )
