"""Tiny models of many classes of transformers, as zoo.json lists them."""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig

ROWS, LENGTH, FRAMES, SIDE = 3, 13, 26, 8
ZOO = json.loads(Path(__file__).with_name("zoo.json").read_text())
"""Name -> class of its layers, what became of them, and what its configuration has beside TINY."""
TINY = {
    "vocab_size": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
    "max_source_positions": 64,
    "max_target_positions": 64,
    "hidden_size": 16,
    "d_model": 16,
    "intermediate_size": 24,
    "ffn_dim": 24,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "num_hidden_layers": 4,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "num_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "image_size": SIDE,
    "patch_size": 2,
    "num_mel_bins": 10,
} | dict.fromkeys(
    (
        *(
            "dropout",
            "activation_dropout",
            "attention_dropout",
            "hidden_dropout",
            "residual_dropout",
        ),
        *("embd_pdrop", "attn_pdrop", "resid_pdrop", "dropout_rate", "drop_path_rate", "layerdrop"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "feat_proj_dropout"),
        *("encoder_layerdrop", "decoder_layerdrop", "embedding_dropout", "mlp_dropout"),
    ),
    0.0,
)


def make_model(name, attention="eager", dtype=torch.float64):
    """The model in training, its weights large enough that every mistake shows."""
    settings = TINY | ZOO[name].get("settings", {})
    for key in ZOO[name].get("without", ()):
        del settings[key]
    config = AutoConfig.for_model(ZOO[name].get("type", name), **settings)
    # By plain matrix products, which have float64.
    config._experts_implementation = "eager"
    make = getattr(transformers, ZOO[name].get("class", "AutoModel")).from_config
    if ZOO[name].get("only") == "eager":
        attention = "eager"
    model = make(config, attn_implementation=attention).to(dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def layers_of(model, name):
    return [m for m in model.modules() if type(m).__name__ == ZOO[name]["layer"]]


def batch(model, name, padding="none"):
    """What the model takes; padded rows of different lengths where it takes tokens."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    shapes = {
        "pixel_values": (ROWS, 3, SIDE, SIDE),
        "input_features": (ROWS, 10, FRAMES),
        "input_values": (ROWS, 600),
    }
    inputs = {}
    if (given := model.main_input_name) in shapes:
        shape = ZOO[name].get("shape", shapes[given])
        inputs[given] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    else:
        shape = ROWS, ZOO[name].get("length", LENGTH)
        inputs["input_ids"] = torch.randint(3, 40, shape, generator=generator)
        if padding != "none":
            mask = torch.ones(shape, dtype=torch.int64)
            mask[1, 9:] = mask[2, 11:] = 0
            inputs["attention_mask"] = mask.flip(1) if padding == "left" else mask
    if model.config.is_encoder_decoder:
        # Longer than the encoder's.
        tokens = torch.randint(3, 40, (ROWS, LENGTH + 4), generator=generator)
        inputs["decoder_input_ids"] = tokens
    return inputs
