"""How our models are cut over the processes of a tensor group, in PyTorch's own parts.

Attention is cut by head, the feed-forward part by inner channel, the vocabulary by word. Between these each process has
its tokens of every row, and all weights that are not cut. Behind the last layer it has all tokens again, and computes
what is not cut there (BERT's heads) as the others do.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from data_efficiency.engine.tensor_parallel import RowGroup, TensorParallel
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.model.language_model import LanguageModel
from megatron.model.transformer import TransformerLayer

_TOKENS = Shard(1)
_READS = partial(ColwiseParallel, input_layouts=_TOKENS)
_WRITES = partial(RowwiseParallel, output_layouts=_TOKENS)
_NORM = partial(SequenceParallel, use_local_output=True)
_OF_A_LAYER: Mapping[str, Any] = {
    "input_layernorm": _NORM,
    "self_attention.query_key_value": _READS,
    "self_attention.dense": _WRITES,
    "post_attention_layernorm": _NORM,
    "mlp.dense_h_to_4h": _READS,
    "mlp.dense_4h_to_h": _WRITES,
    "output_layernorm": _NORM,
}


def tensor_parallel(model: GPTModel | BertModel) -> TensorParallel:
    """How a model is cut; `ModelConfig.require_even_parts` says for how many processes."""
    return TensorParallel(cut=cut, fused=dict(_fused(model)))


def _fused(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Parameter -> rows of each matrix that is in it."""
    for prefix, layer in model.named_modules():
        if not isinstance(layer, TransformerLayer):
            continue
        attention = layer.self_attention
        keys = attention.num_key_value_heads * attention.head_size
        sizes = (attention.num_query_heads * attention.head_size, keys, keys)
        for kind, _ in attention.query_key_value.named_parameters():
            yield f"{prefix}.self_attention.query_key_value.{kind}", sizes
        if layer.mlp.swiglu:
            width = layer.mlp.dense_h_to_4h.out_features // 2
            for kind, _ in layer.mlp.dense_h_to_4h.named_parameters():
                yield f"{prefix}.mlp.dense_h_to_4h.{kind}", (width, width)


def cut(part: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a layer, or what of a model is outside its layers, as `TensorParallel.cut`."""
    if isinstance(part, TransformerLayer):
        attention = part.self_attention
        attention.num_query_heads //= mesh.size()
        attention.num_key_value_heads //= mesh.size()
        _apply(part, mesh, _OF_A_LAYER)
    elif isinstance(part, GPTModel):
        _cut_language_model(part.language_model, mesh)
        if part.config.untie_embeddings_and_output_weights:
            _cut_rows(part.output_layer, "weight", mesh)
    elif isinstance(part, BertModel):
        _cut_language_model(part.language_model, mesh)
        _apply(part, mesh, {"pooler": Alike, "sentence_head": Alike})
        head = part.masked_lm_head
        _apply(head, mesh, {"dense": Alike, "layernorm": Alike})
        _cut_rows(head, "output_bias", mesh)
    else:
        raise TypeError(f"a {type(part).__name__} is no model of ours that could be cut")


def _cut_language_model(model: LanguageModel, mesh: DeviceMesh) -> None:
    group = RowGroup(mesh)
    for name, axis in (("position_embeddings", 0), ("token_type_embeddings", 1)):
        embedding = getattr(model, name, None)
        if embedding is not None:
            embedding.register_forward_pre_hook(partial(_own_ids, group))
            parallelize_module(embedding, mesh, _NORM(sequence_dim=axis), src_data_rank=None)
    words = partial(RowwiseParallel, input_layouts=Replicate(), output_layouts=_TOKENS)
    _apply(
        model,
        mesh,
        {"word_embeddings": words, "embedding_layernorm": _NORM, "final_layernorm": _NORM},
    )
    model.register_forward_pre_hook(partial(_refuse_uneven, group))
    model.register_forward_hook(partial(_all_tokens, group))


def _refuse_uneven(group: RowGroup, _: nn.Module, args: tuple[torch.Tensor]) -> None:
    group.refuse_uneven(args[0].shape[1])


def _own_ids(group: RowGroup, _: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (group.own(args[0], args[0].dim() - 1),)


def _all_tokens(
    group: RowGroup, _: nn.Module, args: Any, hidden_states: torch.Tensor
) -> torch.Tensor:
    return group.whole(hidden_states, 1)


class Alike(ParallelStyle):
    """A module that every process computes whole, on the same input, so that its gradients are the same."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        # PyTorch's types want functions that return nothing, its hooks take what they return.
        spread: Any = self._spread_input
        gather: Any = self._local_output
        return distribute_module(module, device_mesh, _hold_alike, spread, gather)

    @staticmethod
    def _spread_input(_: nn.Module, inputs: tuple[torch.Tensor], mesh: DeviceMesh) -> Any:
        return DTensor.from_local(inputs[0], mesh, (Replicate(),), run_check=False)

    @staticmethod
    def _local_output(_: nn.Module, output: DTensor, mesh: DeviceMesh) -> torch.Tensor:
        return output.redistribute(placements=(Replicate(),)).to_local()


def _hold_alike(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for name, parameter in [*module.named_parameters(recurse=False)]:
        held = DTensor.from_local(parameter.detach(), mesh, (Replicate(),), run_check=False)
        module.register_parameter(name, nn.Parameter(held))


def _cut_rows(module: nn.Module, name: str, mesh: DeviceMesh) -> None:
    """Leave each process its rows of a parameter."""
    whole = module.get_parameter(name).detach()
    part = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
    module.register_parameter(name, nn.Parameter(part))


def _apply(module: nn.Module, mesh: DeviceMesh, styles: Mapping[str, Any]) -> None:
    """Apply a new style to each of these parts that the module has."""
    known = dict(module.named_modules())
    plan = {name: style() for name, style in styles.items() if name in known}
    parallelize_module(module, mesh, plan, src_data_rank=None)
