"""Checkpoints in Megatron-DeepSpeed's layout, made from our models with everything such a file holds."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron.checkpoint.model import checkpoint_in
from megatron.conversion.deepspeed import model_states_file, read_megatron_deepspeed
from megatron.conversion.model import read_any, save_as_ours
from tests.megatron.small_models import GPT2, LLAMA, make_gpt


class ForeignEnum:
    """Stands for a class of the program that wrote the file; making one leaves a trace."""

    made = 0

    def __setstate__(self, state):
        type(self).made += 1


def by_head(tensor, config):
    """Rows [all queries, all keys, all values] in Megatron's order by key-value head."""
    queries = config.num_attention_heads // config.kv_heads
    size = config.head_size
    q, k, v = tensor.split([size * n for n in (config.num_attention_heads, *[config.kv_heads] * 2)])
    rows = []
    for head in range(config.kv_heads):
        first = head * queries * size
        rows += [q[first : first + queries * size]]
        rows += [part[head * size : (head + 1) * size] for part in (k, v)]
    return torch.cat(rows)


def write_checkpoint(folder, model, *, old_names=False, **more_arguments):
    """A run with a step's folder as Megatron-DeepSpeed saves it without pipeline parallelism."""
    config = model.config
    layers = "transformer" if old_names else "encoder"
    attention = "attention" if old_names else "self_attention"
    module = {"language_model": {"embedding": {}, layers: {}}}
    for name, value in model.state_dict().items():
        if "query_key_value" in name:
            value = by_head(value, config)
        if name.startswith("output_layer"):
            module["language_model"]["output_layer"] = {"weight": value}
        elif "embeddings" in name:
            module["language_model"]["embedding"][name.split(".")[1]] = {"weight": value}
        else:
            short = name.removeprefix("language_model.").replace("self_attention", attention)
            module["language_model"][layers][short] = value
    module["language_model"][layers]["rotary_pos_emb.inv_freq"] = torch.ones(3)
    same = ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
    same += ("use_rotary_position_embeddings", "normalization", "layernorm_epsilon", "swiglu")
    arguments = argparse.Namespace(
        **{name: getattr(config, name) for name in same},
        num_key_value_heads=config.kv_heads,
        ffn_hidden_size=config.ffn_size,
        rope_theta=int(config.rotary_position_embeddings_theta),
        add_bias_linear=not config.disable_bias_linear,
        untie_embeddings_and_output_weights=config.untie_embeddings_and_output_weights,
        num_experts=[1],
        params_dtype=torch.float16,
        kind=ForeignEnum(),
        **more_arguments,
    )
    arguments.kind.value = 1
    step = folder / "global_step100"
    step.mkdir(parents=True)
    torch.save(
        {
            "module": module,
            "args": arguments,
            "np_rng_state": np.random.RandomState(0).get_state(),
            "data_sampler": {"current_difficulties": {"x": np.int64(3)}},
            "iteration": 100,
        },
        step / "mp_rank_00_model_states.pt",
    )
    (folder / "latest").write_text("global_step100")
    return folder


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        LLAMA,
        replace(LLAMA, num_key_value_heads=None, untie_embeddings_and_output_weights=True),
    ],
)
def test_model_comes_back_and_no_foreign_code_runs(tmp_path, config):
    model = make_gpt(config)
    file = model_states_file(write_checkpoint(tmp_path, model))
    ForeignEnum.made = 0
    found, weights = read_megatron_deepspeed(file, config.vocab_size)
    assert ForeignEnum.made == 0
    same = {"num_key_value_heads": config.num_key_value_heads, "ffn_hidden_size": None}
    assert replace(found, **same, make_vocab_size_divisible_by=1) == replace(
        config, ffn_hidden_size=None, make_vocab_size_divisible_by=1
    )
    assert found.padded_vocab_size == config.padded_vocab_size
    expected = model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_older_names_are_known(tmp_path):
    model = make_gpt(GPT2)
    file = model_states_file(write_checkpoint(tmp_path, model, old_names=True))
    _, weights = read_megatron_deepspeed(file, None)
    assert weights.keys() == model.state_dict().keys()


def test_vocabulary_is_the_embedding_where_nobody_says_more(tmp_path):
    file = model_states_file(write_checkpoint(tmp_path, make_gpt(LLAMA)))
    assert read_megatron_deepspeed(file, None)[0].vocab_size == 320


def test_what_cannot_be_read_is_refused(tmp_path):
    model = make_gpt(GPT2)
    squared = model_states_file(write_checkpoint(tmp_path / "a", model, squared_relu=True))
    with pytest.raises(ValueError, match="squared_relu is True in the checkpoint's args"):
        read_megatron_deepspeed(squared, None)
    split = write_checkpoint(tmp_path / "b", model) / "global_step100"
    (split / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(ValueError, match="split over 2 tensor-parallel ranks"):
        model_states_file(split)
    (split / "layer_00-model_00-model_states.pt").touch()
    with pytest.raises(ValueError, match="with pipeline parallelism"):
        model_states_file(split)
    other = tmp_path / "other.pt"
    torch.save({"model": {}}, other)
    with pytest.raises(ValueError, match="no module or no args"):
        read_megatron_deepspeed(other, None)
    assert model_states_file(tmp_path) is None


@pytest.mark.parametrize("latest", ["global_step7", "../b", "/global_step100", "", ".", "\x00"])
def test_latest_names_a_folder_beside_it(tmp_path, latest):
    write_checkpoint(tmp_path / "a", make_gpt(GPT2))
    write_checkpoint(tmp_path / "b", make_gpt(GPT2))
    (tmp_path / "a" / "latest").write_text(latest)
    with pytest.raises(
        ValueError, match=r"latest says .* (names no folder beside it|name one of global_step100)"
    ):
        model_states_file(tmp_path / "a")


def test_the_step_is_kept(tmp_path):
    run = write_checkpoint(tmp_path / "run", make_gpt(GPT2))
    (run / "global_step100").rename(run / "renamed")
    for folder in (run / "renamed", write_checkpoint(tmp_path / "other", make_gpt(GPT2))):
        model = read_any(folder, vocab_size=300)
        save_as_ours(model, tmp_path / f"ours_{folder.name}", None, None)
        assert checkpoint_in(tmp_path / f"ours_{folder.name}").name == "global_step100"
