"""Random layerwise token dropping, attached to the layers of any model.

Source: Yao et al., "Random-LTD: Random and Layerwise Token Dropping Brings Efficient Training for
Large-scale Transformers" (2022). Differs: layers stay the modules they are and keep their names in
`state_dict`; each kept token keeps its own mask entries and position.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

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
from data_efficiency.routing.forward_kinds import forward_class
from data_efficiency.routing.layer_interface import LayerInterface
from data_efficiency.routing.layer_presets import interface_of, is_as_shipped, mask_name_of
from data_efficiency.routing.model_forward import follow_forwards
from data_efficiency.routing.router import Router
from data_efficiency.routing.unfit_layers import (
    refuse_other_numbers,
    refuse_other_shares,
    refuse_unfit_layers,
    refuse_wrapper,
)

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
    shares = getattr(model_or_engine, "row_shares", None)
    root = _bare_model(model_or_engine)
    layers = list(_outermost_instances(root, layer_class))
    routing = _closed(settings, layers, layer_class, interface)
    refuse_unfit_layers(root, layers, layer_class, routing)
    interface = _interface(interface, layers, layer_class, routing)
    refuse_other_shares(routing, shares, layer_class, interface)
    router = Router(routing)
    _follow_layer_tokens(model_or_engine, routing.random_ltd)
    spans = {layer: span for span in router.spans for layer in range(span.first, span.last + 1)}
    for layer_id, layer in enumerate(layers):
        span, skips = spans.get(layer_id), layer_id in routing.skipped_layers
        kind = forward_class(layer_id, span, skips_rows=skips)
        layer.forward = kind(
            layer, interface, router, layer_id, span=span, skips_rows=skips, shares=shares
        )
    follow_forwards(root, router, proves=not interface.proved)
    owners: list[Any] = [root, model_or_engine]
    for owner in owners:
        owner.random_ltd_scheduler = router
    return model_or_engine


def _bare_model(model_or_engine: object) -> nn.Module:
    """The module inside all wrappers, none of which hides a forward."""
    root: Any = model_or_engine
    while isinstance(getattr(root, "module", None), nn.Module):
        refuse_wrapper(root)
        root = root.module
    if not isinstance(root, nn.Module):
        raise TypeError(f"a {type(model_or_engine).__name__} is neither a module nor has one")
    refuse_wrapper(root)
    return root


def _interface(
    given: LayerInterface | None,
    layers: Sequence[nn.Module],
    layer_class: type[nn.Module],
    routing: RoutingConfig,
) -> LayerInterface:
    """How the layers are called; proved only where they are as their preset knows them."""
    if given is None:
        known = interface_of(layer_class, routing.random_ltd)
        return replace(known, proved=known.proved and all(map(is_as_shipped, layers)))
    if given.proved:
        logger.warning("%s drops tokens unproved: its interface says proved", layer_class.__name__)
    return given


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
        refuse_other_numbers(layers, layer_class, found)
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
