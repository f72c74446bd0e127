"""Models and layers that may not drop tokens: each is refused by name before anything is attached to it."""

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from data_efficiency.config import RandomLTDConfig, RoutingConfig
from data_efficiency.routing.dropping_layer import LayerForward
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.row_shares import RowShares

NO_REPLICAS = (
    "nn.DataParallel runs copies of the layers in threads: random-LTD needs DistributedDataParallel or an "
    "engine"
)


def refuse_wrapper(module: object) -> None:
    """Raise ValueError if the module runs layers in a way that a forward of the model does not show."""
    if isinstance(module, nn.DataParallel):
        raise ValueError(NO_REPLICAS)
    if any(ancestor.__name__ == "PipelineModule" for ancestor in type(module).__mro__):
        raise ValueError(
            "the model is a PipelineModule: random-LTD cannot be composed with pipeline parallelism; "
            "use ZeRO"
        )


def refuse_other_numbers(
    layers: Sequence[nn.Module], layer_class: type[nn.Module], settings: RandomLTDConfig
) -> None:
    """Raise ValueError for numbers of layers that cannot be, or that the model does not have."""
    ids = settings.random_ltd_layer_id
    if len(layers) != settings.total_layer_num:
        raise ValueError(
            f"total_layer_num is {settings.total_layer_num}, but the model has {len(layers)} layers "
            f"of class {layer_class.__name__}"
        )
    if len(set(ids)) != len(ids):
        raise ValueError(f"random_ltd_layer_id is {list(ids)}: names a layer twice")
    if len(ids) != settings.random_ltd_layer_num:
        raise ValueError(
            f"random_ltd_layer_num is {settings.random_ltd_layer_num}, but random_ltd_layer_id has "
            f"{len(ids)} entries"
        )
    if not all(0 <= layer_id < len(layers) for layer_id in ids):
        raise ValueError(
            f"random_ltd_layer_id is {list(ids)}: each must be at least 0 and below {len(layers)}"
        )
    if settings.spans and sorted(layer for span in settings.spans for layer in span) != sorted(ids):
        raise ValueError(
            f"random_ltd_layer_id is {list(ids)}, but the spans are {settings.spans}: must be the same layers"
        )


def refuse_unfit_layers(
    root: nn.Module,
    layers: Sequence[nn.Module],
    layer_class: type[nn.Module],
    routing: RoutingConfig,
) -> None:
    """Raise ValueError for layers that are converted already, or that no interface makes right.

    Args:
        root: the model.
        layers: of the class, in the model's order.
        routing: closed by the model.
    """
    if any(isinstance(layer.forward, LayerForward) for layer in layers):
        raise ValueError("the model is converted to random-LTD already: convert it once")
    _refuse_unknown_mask(layer_class, routing)
    _refuse_attention_kernels(layers)
    _refuse_mixers(root, layers, routing)


def refuse_other_shares(
    routing: RoutingConfig,
    shares: RowShares | None,
    layer_class: type[nn.Module],
    interface: LayerInterface,
) -> None:
    """Raise ValueError unless processes share rows as the configuration says, in layers that are known to allow it.

    Args:
        shares: the processes that share each row; None: each process has whole ones.
    """
    if routing.row_shares != (1 if shares is None else shares.size):
        raise ValueError(
            f"tensor_parallel.autotp_size is {routing.row_shares}, but this model is not cut so: convert the engine that "
            "initialize makes with tensor_parallel=, or remove the section"
        )
    if shares is not None and not interface.proved:
        raise ValueError(
            f"processes share each row, and {layer_class.__name__} is no layer that random-LTD knows: that it may drop "
            "tokens is proved on whole rows only; take FSDP2 instead of tensor parallelism"
        )


def _refuse_unknown_mask(layer_class: type[nn.Module], routing: RoutingConfig) -> None:
    """Raise ValueError if the mask's name is no argument of the layers."""
    mask = None if routing.random_ltd is None else routing.random_ltd.model_mask_name
    parameters = inspect.signature(layer_class.forward).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    if mask is not None and mask not in parameters and not takes_any:
        raise ValueError(
            f"model_mask_name is {mask!r}, but {layer_class.__name__}.forward has no such argument; it takes "
            f"{', '.join(list(parameters)[1:])}"
        )


def _refuse_attention_kernels(layers: Sequence[nn.Module]) -> None:
    """Raise ValueError unless masks reach the attention of Hugging Face layers as tensors."""
    for config in {
        id(module.config): module.config
        for layer in layers
        for module in layer.modules()
        if hasattr(module, "config")
    }.values():
        kernel = getattr(config, "_attn_implementation", None)
        if isinstance(kernel, str) and kernel not in ("eager", "sdpa"):
            raise ValueError(
                f"the attention implementation is {kernel!r}: it reads windows and document bounds "
                "from positions that dropping changes; use sdpa or eager"
            )


def _refuse_mixers(root: nn.Module, layers: Sequence[nn.Module], routing: RoutingConfig) -> None:
    """Raise ValueError for layers that no interface makes right."""
    places = Counter(id(module) for _, module in root.named_modules(remove_duplicate=False))
    dropping = () if routing.random_ltd is None else routing.random_ltd.random_ltd_layer_id
    for layer_id in sorted({*dropping, *routing.skipped_layers}):
        layer = layers[layer_id]
        key = "random_ltd_layer_id" if layer_id in dropping else "layer_dropout.layer_id"
        name, advice = type(layer).__name__, f"leave it out of {key}"
        if places[id(layer)] > 1:
            raise ValueError(
                f"{name} {layer_id} stands at {places[id(layer)]} places of the model: random-LTD needs a "
                "layer of its own for each call; " + advice
            )
        if layer_id not in dropping:
            continue
        for part in layer.modules():
            window: Any = getattr(part, "kernel_size", 1)
            mixes = isinstance(part, nn.modules.conv._ConvNd) and max(window) > 1
            if mixes or isinstance(part, nn.RNNBase | nn.RNNCellBase):
                raise ValueError(
                    f"{name} {layer_id} has a {type(part).__name__}, for which the token before is the one "
                    f"before in the sequence, dropped or not: it may not drop tokens; {advice}"
                )
