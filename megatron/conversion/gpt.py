"""Our GPT and the two Hugging Face families it corresponds to: settings and weight names.

GPT-2: learned positions, LayerNorm, GELU, biases. Llama: rotary positions, RMSNorm, SwiGLU, grouped
keys and values, no biases. What is converted has no rows that pad the vocabulary.

Source: the `config.json` of GPT2LMHeadModel and LlamaForCausalLM in transformers 5.
"""

from collections.abc import Callable, Mapping
from typing import Any

from megatron.config import ModelConfig
from megatron.conversion.weights import Rule, rules_of_layers

TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
EXACT_GELU = ("gelu",)
# What our model has no setting for: key -> values that mean it is not used; the first is the default.
_GPT2_FIXED: dict[str, tuple[Any, ...]] = {
    "activation_function": TANH_GELU + EXACT_GELU,
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
_LLAMA_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
}
_LLAMA_ROPE = {"rope_type": ("default",), "partial_rotary_factor": (1.0, 1)}
_QKV, _GATE_UP = "self_attention.query_key_value.weight", "mlp.dense_h_to_4h.weight"
_LAYER_PREFIX = "language_model.layers.{i}."
_GPT2_LAYER = {
    "input_layernorm.weight": "ln_1.weight",
    "input_layernorm.bias": "ln_1.bias",
    _QKV: ".T attn.c_attn.weight",
    "self_attention.query_key_value.bias": "attn.c_attn.bias",
    "self_attention.dense.weight": ".T attn.c_proj.weight",
    "self_attention.dense.bias": "attn.c_proj.bias",
    "post_attention_layernorm.weight": "ln_2.weight",
    "post_attention_layernorm.bias": "ln_2.bias",
    _GATE_UP: ".T mlp.c_fc.weight",
    "mlp.dense_h_to_4h.bias": "mlp.c_fc.bias",
    "mlp.dense_4h_to_h.weight": ".T mlp.c_proj.weight",
    "mlp.dense_4h_to_h.bias": "mlp.c_proj.bias",
}
_LLAMA_LAYER = {
    "input_layernorm.weight": "input_layernorm.weight",
    _QKV: "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    _GATE_UP: "mlp.gate_proj.weight mlp.up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_GPT2_ENDS = {
    "language_model.word_embeddings.weight": "transformer.wte.weight",
    "language_model.position_embeddings.weight": "transformer.wpe.weight",
    "language_model.final_layernorm.weight": "transformer.ln_f.weight",
    "language_model.final_layernorm.bias": "transformer.ln_f.bias",
}
_LLAMA_ENDS = {
    "language_model.word_embeddings.weight": "model.embed_tokens.weight",
    "language_model.final_layernorm.weight": "model.norm.weight",
}


def gpt_rules(config: ModelConfig) -> list[Rule]:
    """The weights of our GPT and of its Hugging Face counterpart.

    Raises:
        ValueError: if no family has all of the model's settings.
    """
    gpt2 = _family(config) == "gpt2"
    ends = _GPT2_ENDS if gpt2 else _LLAMA_ENDS
    if config.untie_embeddings_and_output_weights:
        ends = ends | {"output_layer.weight": "lm_head.weight"}
    rules = [Rule(ours, (theirs,)) for ours, theirs in ends.items()]
    if gpt2:
        prefixes = (_LAYER_PREFIX, "transformer.h.{i}.")
        return rules + list(rules_of_layers(_GPT2_LAYER, config.num_layers, prefixes, {}))
    heads = (config.num_attention_heads, config.kv_heads, config.kv_heads)
    sizes = {
        _QKV: tuple(config.head_size * num_heads for num_heads in heads),
        _GATE_UP: (config.ffn_size, config.ffn_size),
    }
    prefixes = (_LAYER_PREFIX, "model.layers.{i}.")
    return rules + list(rules_of_layers(_LLAMA_LAYER, config.num_layers, prefixes, sizes))


def gpt_to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """The fields of `config.json` for a GPT of ours; the error of `gpt_rules`."""
    shared = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": not config.untie_embeddings_and_output_weights,
        "initializer_range": config.init_method_std,
    }
    if _family(config) == "gpt2":
        return shared | {
            "model_type": "gpt2",
            "n_layer": config.num_layers,
            "n_embd": config.hidden_size,
            "n_head": config.num_attention_heads,
            "n_positions": config.max_position_embeddings,
            "n_inner": config.ffn_size,
            "layer_norm_epsilon": config.layernorm_epsilon,
            "activation_function": (EXACT_GELU if config.gelu == "exact" else TANH_GELU)[0],
            "attn_pdrop": config.attention_dropout,
            "resid_pdrop": config.hidden_dropout,
            "embd_pdrop": config.hidden_dropout,
        }
    return shared | {
        "model_type": "llama",
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.layernorm_epsilon,
        "attention_dropout": config.attention_dropout,
        "hidden_act": "silu",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rotary_position_embeddings_theta,
        },
    }


def gpt_from_hugging_face(fields: Mapping[str, Any]) -> ModelConfig:
    """The settings of our GPT from the fields of a `config.json`.

    Raises:
        ValueError: if the model is of another family or uses what our GPT does not have.
    """
    family = fields.get("model_type")
    if family not in _READERS:
        raise ValueError(
            f"model_type is {family!r}: a GPT of ours is made from {' or '.join(sorted(_READERS))}"
        )
    return ModelConfig(
        vocab_size=fields["vocab_size"],
        make_vocab_size_divisible_by=1,
        init_method_std=fields.get("initializer_range", 0.02),
        **_READERS[family](fields),
    )


def refuse_other_values(
    fields: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], origin: str = "config.json"
) -> None:
    """Raise ValueError, naming the first field that is there and has no value it may have."""
    for key, values in fixed.items():
        if fields.get(key, values[0]) not in values:
            raise ValueError(
                f"{key} is {fields[key]!r} in {origin}: our model has no such setting, only"
                f" {values[0]!r} can be converted"
            )


def _from_gpt2(fields: Mapping[str, Any]) -> dict[str, Any]:
    refuse_other_values(fields, _GPT2_FIXED)
    return {
        "num_layers": fields["n_layer"],
        "hidden_size": fields["n_embd"],
        "num_attention_heads": fields["n_head"],
        "ffn_hidden_size": fields.get("n_inner"),
        "gelu": "exact" if fields.get("activation_function") in EXACT_GELU else "tanh",
        "max_position_embeddings": fields["n_positions"],
        "layernorm_epsilon": fields.get("layer_norm_epsilon", 1e-5),
        "attention_dropout": fields.get("attn_pdrop", 0.1),
        "hidden_dropout": fields.get("resid_pdrop", 0.1),
        "untie_embeddings_and_output_weights": not fields.get("tie_word_embeddings", True),
    }


def _from_llama(fields: Mapping[str, Any]) -> dict[str, Any]:
    rope = fields.get("rope_parameters") or {}
    head_size = fields["hidden_size"] // fields["num_attention_heads"]
    refuse_other_values(fields, _LLAMA_FIXED | {"head_dim": (head_size, None)})
    refuse_other_values(rope, _LLAMA_ROPE)
    return {
        "num_layers": fields["num_hidden_layers"],
        "hidden_size": fields["hidden_size"],
        "num_attention_heads": fields["num_attention_heads"],
        "num_key_value_heads": fields.get("num_key_value_heads"),
        "ffn_hidden_size": fields["intermediate_size"],
        "max_position_embeddings": fields["max_position_embeddings"],
        "layernorm_epsilon": fields.get("rms_norm_eps", 1e-6),
        "attention_dropout": fields.get("attention_dropout", 0.0),
        "use_rotary_position_embeddings": True,
        "rotary_position_embeddings_theta": rope.get(
            "rope_theta", fields.get("rope_theta", 10000.0)
        ),
        "normalization": "rmsnorm",
        "swiglu": True,
        "disable_bias_linear": True,
        "untie_embeddings_and_output_weights": not fields.get("tie_word_embeddings", False),
    }


_READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "gpt2": _from_gpt2,
    "llama": _from_llama,
}


def _family(config: ModelConfig) -> str:
    """The Hugging Face family of a GPT; an error that names what keeps it from the nearer one."""
    llama = {
        "use_rotary_position_embeddings": config.use_rotary_position_embeddings,
        "normalization": config.normalization == "rmsnorm",
        "swiglu": config.swiglu,
        "disable_bias_linear": config.disable_bias_linear,
    }
    grouped = config.kv_heads != config.num_attention_heads
    if all(llama.values()):
        return "llama"
    if not any(llama.values()) and not grouped:
        return "gpt2"
    flags = {"--" + name.replace("_", "-"): on for name, on in llama.items()}
    raise ValueError(
        "no Hugging Face model has this combination of settings: with "
        + ", ".join(flags)
        + " it would be Llama, with none of them and no grouped keys and values GPT-2; here "
        + (
            ", ".join(flag for flag, on in flags.items() if not on and any(llama.values()))
            or "none"
        )
        + " is not set"
        + (" and keys and values are grouped" if grouped else "")
    )
