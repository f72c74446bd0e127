"""Our BERT and the two Hugging Face families it corresponds to: settings and weight names.

`bert` normalizes after attention and feed-forward, `megatron-bert` before them.

Source: the `config.json` of BertForPreTraining and MegatronBertForPreTraining in transformers 5.
"""

from collections.abc import Mapping
from typing import Any

from megatron.config import ModelConfig
from megatron.conversion.gpt import EXACT_GELU, TANH_GELU, refuse_other_values
from megatron.conversion.weights import Rule, Weights, rules_of_layers
from megatron.setting_rules import require

BERT_FAMILIES = {"bert": "after", "megatron-bert": "before"}
"""`model_type` -> our position of the normalization."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": EXACT_GELU + TANH_GELU,
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
# What our BERT computes in one way only: setting -> the value it must have.
_NEEDED: dict[str, Any] = {
    "use_rotary_position_embeddings": False,
    "normalization": "layernorm",
    "swiglu": False,
    "disable_bias_linear": False,
}
_LINEARS = {
    "self_attention.query_key_value": (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ),
    "self_attention.dense": ("attention.output.dense",),
    "mlp.dense_h_to_4h": ("intermediate.dense",),
    "mlp.dense_4h_to_h": ("output.dense",),
}
_LAYER = {
    "after": _LINEARS
    | {
        "post_attention_layernorm": ("attention.output.LayerNorm",),
        "output_layernorm": ("output.LayerNorm",),
    },
    "before": _LINEARS
    | {"input_layernorm": ("attention.ln",), "post_attention_layernorm": ("ln",)},
}
_LAST_NORM = {
    "after": ("language_model.embedding_layernorm", "bert.embeddings.LayerNorm"),
    "before": ("language_model.final_layernorm", "bert.encoder.ln"),
}
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_HEADS = {
    "pooler": "bert.pooler.dense",
    "masked_lm_head.dense": "cls.predictions.transform.dense",
    "masked_lm_head.layernorm": "cls.predictions.transform.LayerNorm",
    "sentence_head": "cls.seq_relationship",
}
_OUTPUT_BIAS = "masked_lm_head.output_bias"


def is_bert(weights: Weights) -> bool:
    """Whether weights of ours are those of a BERT."""
    return _OUTPUT_BIAS in weights


def bert_rules(config: ModelConfig) -> list[Rule]:
    """The weights of our BERT and of its Hugging Face counterpart.

    Raises:
        ValueError: if no family has all of the model's settings.
    """
    _check(config)
    position = config.normalization_position
    rules = [
        Rule(f"language_model.{name}.weight", (f"bert.embeddings.{name}.weight",))
        for name in _EMBEDDINGS
    ]
    rules.append(Rule(_OUTPUT_BIAS, ("cls.predictions.bias",)))
    layer, sizes = {}, {}
    for kind in ("weight", "bias"):
        for ours, theirs in (*_HEADS.items(), _LAST_NORM[position]):
            rules.append(Rule(f"{ours}.{kind}", (f"{theirs}.{kind}",)))
        for ours, names in _LAYER[position].items():
            layer[f"{ours}.{kind}"] = " ".join(f"{name}.{kind}" for name in names)
        sizes[f"self_attention.query_key_value.{kind}"] = (config.hidden_size,) * 3
    prefixes = ("language_model.layers.{i}.", "bert.encoder.layer.{i}.")
    return rules + list(rules_of_layers(layer, config.num_layers, prefixes, sizes))


def bert_to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """The fields of `config.json` for a BERT of ours; the error of `bert_rules`."""
    _check(config)
    families = {position: family for family, position in BERT_FAMILIES.items()}
    return {
        "model_type": families[config.normalization_position],
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.num_token_types,
        "layer_norm_eps": config.layernorm_epsilon,
        "hidden_act": (EXACT_GELU if config.gelu == "exact" else TANH_GELU)[0],
        "attention_probs_dropout_prob": config.attention_dropout,
        "hidden_dropout_prob": config.hidden_dropout,
        "initializer_range": config.init_method_std,
    }


def bert_from_hugging_face(fields: Mapping[str, Any]) -> ModelConfig:
    """The settings of our BERT from the fields of a `config.json`.

    Raises:
        ValueError: if the model uses what our BERT does not have.
    """
    refuse_other_values(fields, _FIXED)
    position: Any = BERT_FAMILIES[fields["model_type"]]
    return ModelConfig(
        num_layers=fields["num_hidden_layers"],
        hidden_size=fields["hidden_size"],
        num_attention_heads=fields["num_attention_heads"],
        ffn_hidden_size=fields["intermediate_size"],
        vocab_size=fields["vocab_size"],
        make_vocab_size_divisible_by=1,
        max_position_embeddings=fields["max_position_embeddings"],
        num_token_types=fields.get("type_vocab_size", 2),
        normalization_position=position,
        layernorm_epsilon=fields.get("layer_norm_eps", 1e-12),
        gelu="exact" if fields.get("hidden_act", "gelu") in EXACT_GELU else "tanh",
        attention_dropout=fields.get("attention_probs_dropout_prob", 0.1),
        hidden_dropout=fields.get("hidden_dropout_prob", 0.1),
        init_method_std=fields.get("initializer_range", 0.02),
    )


def _check(config: ModelConfig) -> None:
    for name, needed in _NEEDED.items():
        value = getattr(config, name)
        require(value == needed, name, value, f"Hugging Face's BERT has {needed!r} only")
    require(
        config.num_token_types > 0, "num_token_types", 0, "Hugging Face's BERT has at least one"
    )
    require(
        config.kv_heads == config.num_attention_heads,
        "num_key_value_heads",
        config.num_key_value_heads,
        "Hugging Face's BERT does not group keys and values",
    )
