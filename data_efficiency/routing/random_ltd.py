"""Random layerwise token dropping, attached to the layers of any model.

Source: Yao et al., "Random-LTD: Random and Layerwise Token Dropping Brings Efficient Training for
Large-scale Transformers" (2022). Differs: layers stay the modules they are and keep their names in
`state_dict`; each kept token keeps its own mask entries and position.
"""

import inspect
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import update_wrapper
from typing import Any, TypeVar

import torch
from torch import nn

from data_efficiency.config import (
    ConfigSource,
    DataEfficiencyConfig,
    LayerDropoutConfig,
    OpenRandomLTD,
    RandomLTDConfig,
    RoutingConfig,
    load_config,
)
from data_efficiency.routing.dropping_layer import LayerForward
from data_efficiency.routing.forward_kinds import forward_class
from data_efficiency.routing.layer_interface import LayerInterface, tensors_in
from data_efficiency.routing.layer_presets import interface_of, is_as_shipped, mask_name_of
from data_efficiency.routing.proof import uncompiled
from data_efficiency.routing.router import Router
from data_efficiency.token_names import rows_and_length

logger = logging.getLogger(__name__)

ModelOrEngine = TypeVar("ModelOrEngine")
AnyConfig = RandomLTDConfig | OpenRandomLTD | LayerDropoutConfig | ConfigSource


def convert_to_random_ltd(
    model_or_engine: ModelOrEngine,
    layer_class: type[nn.Module],
    config: AnyConfig | None = None,
    *,
    interface: LayerInterface | None = None,
) -> ModelOrEngine:
    """The same model or engine, its layers now on the routes of the configuration in training.

    That is random-LTD, alone or in spans, and layer dropout: whatever `data_routing` switches on.

    Layers are numbered from 0 in the order of `named_modules()` among the instances of `layer_class`;
    an instance inside another one belongs to the outer one. The router is set as attribute
    `random_ltd_scheduler`; an engine calls its `set_position`, users of a bare model do so themselves
    before each training forward. Where the JSON enables `layer_token_lr_schedule`, the engine follows it.

    Args:
        model_or_engine: a module, a wrapper with the module as attribute `module`, or an engine.
        config: settings of a route, or whatever `load_config` takes; what it leaves open the model says.
            An engine has its own.
        interface: how the layers are called, for a class that is not among the presets and has more
            than one mask or any table of positions.

    Raises:
        ValueError: if the layers do not fit the settings, no route is in the settings, the
            model is converted already, or it runs in a way that dropping would silently break.
    """
    settings = _settings(model_or_engine, config)
    root: Any = model_or_engine
    shares = getattr(model_or_engine, "row_shares", None)
    while isinstance(getattr(root, "module", None), nn.Module):
        _refuse_wrapper(root)
        root = root.module
    if not isinstance(root, nn.Module):
        raise TypeError(f"a {type(model_or_engine).__name__} is neither a module nor has one")
    _refuse_wrapper(root)
    layers = list(_outermost_instances(root, layer_class))
    routing = _closed(settings, layers, layer_class, interface)
    _check_layers(layers, layer_class, routing)
    _refuse_attention_kernels(layers)
    _refuse_mixers(root, layers, routing)
    if interface is None:
        interface = interface_of(layer_class, routing.random_ltd)
        interface = replace(interface, proved=interface.proved and all(map(is_as_shipped, layers)))
    elif interface.proved:
        logger.warning("%s drops tokens unproved: its interface says proved", layer_class.__name__)
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
    router = Router(routing)
    _follow_layer_tokens(model_or_engine, routing.random_ltd)
    spans = {layer: span for span in router.spans for layer in range(span.first, span.last + 1)}
    for layer_id, layer in enumerate(layers):
        span, skips = spans.get(layer_id), layer_id in routing.skipped_layers
        kind = forward_class(layer_id, span, skips_rows=skips)
        layer.forward = kind(
            layer, interface, router, layer_id, span=span, skips_rows=skips, shares=shares
        )
    if not interface.proved:
        root.forward = _ForwardThatProves(root, router)
    root.register_forward_pre_hook(_BeginForward(router), prepend=True, with_kwargs=True)
    root.register_forward_hook(router.end_forward, always_call=True)
    owners: list[Any] = [root, model_or_engine]
    for owner in owners:
        owner.random_ltd_scheduler = router
    return model_or_engine


def _follow_layer_tokens(model_or_engine: Any, settings: RandomLTDConfig | None) -> None:
    """Let an engine's learning rate follow layer tokens, where the settings ask for it."""
    if settings is None or settings.layer_token_lr is None:
        return
    if not hasattr(model_or_engine, "follow_learning_rate"):
        raise ValueError(
            "layer_token_lr_schedule is enabled, but there is no engine that counts layer tokens: make "
            "one by data_efficiency.initialize, or disable the schedule"
        )
    model_or_engine.follow_learning_rate(settings.layer_token_lr)


_NO_REPLICAS = (
    "nn.DataParallel runs copies of the layers in threads: random-LTD needs DistributedDataParallel or an "
    "engine"
)


def _refuse_wrapper(module: object) -> None:
    """Raise ValueError if the module runs layers in a way that a forward of the model does not show."""
    if isinstance(module, nn.DataParallel):
        raise ValueError(_NO_REPLICAS)
    if any(ancestor.__name__ == "PipelineModule" for ancestor in type(module).__mro__):
        raise ValueError(
            "the model is a PipelineModule: random-LTD cannot be composed with pipeline parallelism; "
            "use ZeRO"
        )


def _refuse_attention_kernels(layers: list[nn.Module]) -> None:
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


def _closed(
    settings: DataEfficiencyConfig,
    layers: Sequence[nn.Module],
    layer_class: type[nn.Module],
    interface: LayerInterface | None,
) -> RoutingConfig:
    """The routes, with what the layers say of them.

    Raises:
        ConfigError: if something stays open, or does not go with the layers.
    """
    if not layers:
        raise ValueError(f"the model has no layer of class {layer_class.__name__}")
    found = settings.random_ltd
    if isinstance(found, OpenRandomLTD):
        is_described = interface is not None
        mask = None if is_described else mask_name_of(layer_class)
        found = found.closed(num_layers=len(layers), mask_name=mask)
    if isinstance(found, RandomLTDConfig):
        _check_random_ltd(layers, layer_class, found)
        logger.info(
            "random-LTD in the layers %s of %d, kept length %s",
            list(map(list, found.spans)) or list(found.random_ltd_layer_id),
            found.total_layer_num,
            found.schedule.describe(),
        )
    routing = replace(settings, random_ltd=found).routing(len(layers))
    assert routing is not None
    if routing.layer_dropout is not None:
        logger.info(
            "layer dropout in %d layers, percent of rows kept in the last: %s",
            len(routing.skipped_layers),
            routing.layer_dropout.schedule.describe(),
        )
    return routing


def _settings(model_or_engine: object, config: AnyConfig | None) -> DataEfficiencyConfig:
    """The section that names at least one route."""
    found: Any = config
    if found is None:
        found = getattr(model_or_engine, "data_efficiency_config", None)
        if found is None:
            raise ValueError(
                f"config is missing: a bare {type(model_or_engine).__name__} has none of its own"
            )
    if isinstance(found, RandomLTDConfig | OpenRandomLTD):
        return DataEfficiencyConfig(random_ltd=found)
    if isinstance(found, LayerDropoutConfig):
        return DataEfficiencyConfig(layer_dropout=found)
    section = load_config(found).data_efficiency
    if not section.routes:
        raise ValueError(
            "data_efficiency.data_routing.random_ltd is missing or not enabled, and so is every other route"
        )
    return section


def _outermost_instances(module: nn.Module, layer_class: type[nn.Module]) -> Iterator[nn.Module]:
    """The instances that are not inside another one, each once, in the model's order."""
    seen: set[nn.Module] = set()
    pending = [module]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if isinstance(current, layer_class):
            yield current
        else:
            pending.extend(reversed(list(current.children())))


def _check_layers(
    layers: list[nn.Module], layer_class: type[nn.Module], routing: RoutingConfig
) -> None:
    if any(isinstance(layer.forward, LayerForward) for layer in layers):
        raise ValueError("the model is converted to random-LTD already: convert it once")
    mask = None if routing.random_ltd is None else routing.random_ltd.model_mask_name
    parameters = inspect.signature(layer_class.forward).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    if mask is not None and mask not in parameters and not takes_any:
        raise ValueError(
            f"model_mask_name is {mask!r}, but {layer_class.__name__}.forward has no such argument; it takes "
            f"{', '.join(list(parameters)[1:])}"
        )


def _check_random_ltd(
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


def _refuse_mixers(root: nn.Module, layers: list[nn.Module], routing: RoutingConfig) -> None:
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


class _ForwardThatProves:
    """The model's `forward`, uncompiled as long as it has something to prove.

    Else compiled code would be split at each proof, and remain so when all is proved.
    """

    def __init__(self, module: nn.Module, router: Router) -> None:
        update_wrapper(self, module.forward)
        self.original = module.forward
        self.router = router

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        if not (self.router.in_forward and self.router.proof_is_due):
            return self.original(*args, **kwargs)
        forward = self._uncompiled
        if torch.compiler.is_compiling():
            forward = torch.compiler.disable(forward)
        return forward(*args, **kwargs)

    def _uncompiled(self, *args: Any, **kwargs: Any) -> Any:
        with uncompiled():
            return self.original(*args, **kwargs)


class _BeginForward:
    """The hook before the model: begins a forward with what the arguments tell of its shape."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            self.router.keep_everything()
            return
        if getattr(module, "_is_replica", False):
            raise ValueError(_NO_REPLICAS)
        config = getattr(module, "config", None)
        if kwargs.get("output_attentions", getattr(config, "output_attentions", False)):
            raise ValueError(
                "output_attentions is set: dropping layers have attention weights of their kept tokens "
                "only; ask for them after eval()"
            )
        tensor = next(tensors_in((args, kwargs)), None)
        labels = None
        if self.router.needs_labels:
            labels = torch.compiler.disable(_labels_in)(module, args, kwargs)
        begin = torch.compiler.disable(self.router.begin_forward)
        told = rows_and_length(args, kwargs, has_bags=self.router.gets_bags)
        begin(*told, None if tensor is None else tensor.device, labels)


def _labels_in(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> torch.Tensor | None:
    """What a model's forward is given as `labels`, by name or by its place; None where it is not."""
    named = zip(inspect.signature(module.forward).parameters, args, strict=False)
    labels = {**dict(named), **kwargs}.get("labels")
    return labels if isinstance(labels, torch.Tensor) else None


def remove_random_ltd_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with the plain names of its layers, in the same order.

    Our conversion never changes names; DeepSpeed's wrapper puts `.random_ltd_layer` into them.

    Raises:
        ValueError: if two keys get the same name.
    """
    plain: dict[str, Any] = {}
    for key, value in state_dict.items():
        name = key.replace(".random_ltd_layer", "")
        if name in plain:
            raise ValueError(
                f"the state dict has {name!r} twice, with and without the wrapper's name"
            )
        plain[name] = value
    return plain


def save_without_random_ltd(model_or_engine: Any) -> dict[str, Any]:
    """The state dict of the bare model, with plain names."""
    module = model_or_engine
    while isinstance(getattr(module, "module", None), nn.Module):
        module = module.module
    return remove_random_ltd_state_dict(module.state_dict())
