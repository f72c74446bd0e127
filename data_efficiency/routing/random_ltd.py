"""Random layerwise token dropping, attached to the layers of any model.

Source: Yao et al., "Random-LTD: Random and Layerwise Token Dropping Brings Efficient Training for
Large-scale Transformers" (2022). Differs: layers stay the modules they are and keep their names in
`state_dict`; each kept token keeps its own mask entries and position.
"""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from data_efficiency.config import Config, DataEfficiencyConfig, RandomLTDConfig, load_config
from data_efficiency.routing.layer_interface import LayerInterface, interface_of
from data_efficiency.routing.router import Router
from data_efficiency.routing.token_ops import gather_tokens, scatter_tokens

ModelOrEngine = TypeVar("ModelOrEngine")
AnyConfig = RandomLTDConfig | DataEfficiencyConfig | Config | Mapping[str, Any] | str | Path


def convert_to_random_ltd(
    model_or_engine: ModelOrEngine, layer_class: type[nn.Module], config: AnyConfig | None = None
) -> ModelOrEngine:
    """The same model or engine, its chosen layers now dropping tokens in training.

    Layers are numbered from 0 in the order of `named_modules()` among the instances of `layer_class`;
    an instance inside another one belongs to the outer one. The router is set as attribute
    `random_ltd_scheduler`; an engine calls its `set_position`, users of a bare model do so themselves
    before each training forward. The model's first tensor argument must start with the axes
    [batch, sequence].

    Args:
        model_or_engine: a module, a wrapper with the module as attribute `module`, or an engine.
        layer_class: class of the transformer layers.
        config: random-LTD settings, the parsed configuration, the JSON object or its path. An
            engine has its own.

    Raises:
        ValueError: if the layers do not fit the settings, random-LTD is not in the settings, or the
            model is converted already.
    """
    settings = _settings(model_or_engine, config)
    root: Any = model_or_engine
    while isinstance(getattr(root, "module", None), nn.Module):
        root = root.module
    if not isinstance(root, nn.Module):
        raise TypeError(f"a {type(model_or_engine).__name__} is neither a module nor has one")
    layers = list(_outermost_instances(root, layer_class))
    _check_layers(layers, layer_class, settings)
    router = Router(settings.schedule, settings.random_ltd_layer_num, settings.seed)
    interface = interface_of(layer_class, settings)
    for number, layer_id in enumerate(sorted(settings.random_ltd_layer_id)):
        layer = layers[layer_id]
        layer.forward = _DroppingForward(layer, interface, router, number)
    root.register_forward_pre_hook(_BeginForward(router), prepend=True, with_kwargs=True)
    owners: list[Any] = [root, model_or_engine]
    for owner in owners:
        owner.random_ltd_scheduler = router
    return model_or_engine


def _settings(model_or_engine: object, config: AnyConfig | None) -> RandomLTDConfig:
    found: Any = config
    if found is None:
        found = getattr(model_or_engine, "data_efficiency_config", None)
        if found is None:
            raise ValueError(
                f"config is missing: a bare {type(model_or_engine).__name__} has none of its own"
            )
    if isinstance(found, str | Path | Mapping):
        found = load_config(found)
    if isinstance(found, Config):
        found = found.data_efficiency
    if isinstance(found, DataEfficiencyConfig):
        found = found.random_ltd
        if found is None:
            raise ValueError("data_efficiency.data_routing.random_ltd is missing or not enabled")
    settings: RandomLTDConfig = found
    return settings


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
    layers: list[nn.Module], layer_class: type[nn.Module], settings: RandomLTDConfig
) -> None:
    name = layer_class.__name__
    ids = settings.random_ltd_layer_id
    if any(isinstance(layer.forward, _DroppingForward) for layer in layers):
        raise ValueError("the model is converted to random-LTD already: convert it once")
    if len(layers) != settings.total_layer_num:
        raise ValueError(
            f"total_layer_num is {settings.total_layer_num}, but the model has {len(layers)} layers "
            f"of class {name}"
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
    mask = settings.model_mask_name
    parameters = inspect.signature(layer_class.forward).parameters
    takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    if mask is not None and mask not in parameters and not takes_any:
        raise ValueError(
            f"model_mask_name is {mask!r}, but {name}.forward has no such argument; it takes "
            f"{', '.join(list(parameters)[1:])}"
        )


class _BeginForward:
    """The hook at the model: tells the router the shape of the batch."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module.training:
            self.router.keep_everything()
            return
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor) and value.dim() >= 2:
                num_rows, sequence_length = value.shape[:2]
                begin = torch.compiler.disable(self.router.begin_forward)
                begin(num_rows, sequence_length, value.device)
                return
        raise ValueError(
            f"{type(module).__name__} was called without a tensor [batch, sequence, ...]: random-LTD "
            "cannot tell the rows and the length of the batch"
        )


class _DroppingForward:
    """A layer's `forward` that runs the layer on the kept tokens only."""

    def __init__(
        self, layer: nn.Module, interface: LayerInterface, router: Router, number: int
    ) -> None:
        self.layer = layer
        self.original = layer.forward
        self.interface = interface
        self.router = router
        self.number = number
        parameters = list(inspect.signature(layer.forward).parameters.values())
        self.names = tuple(
            parameter.name
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        drawn = self.router.positions
        if drawn is None or not self.layer.training:
            return self.original(*args, **kwargs)
        hidden_states = self._hidden_states(args)
        positions, axis = drawn[self.number], self.interface.sequence_axis
        length = hidden_states.shape[axis]
        kept = gather_tokens(hidden_states, positions, axis, self.interface.batch_axis)
        names = (*self.names, *(f"number {i}" for i in range(len(self.names), len(args))))
        others = [
            self.interface.shorten(name, value, positions, length)
            for name, value in zip(names[1:], args[1:], strict=False)
        ]
        keywords = {
            name: self.interface.shorten(name, value, positions, length)
            for name, value in kwargs.items()
        }
        result = self.original(kept, *others, **keywords)
        first = (*result, None)[0] if isinstance(result, tuple) else result
        self._check_result(result, first, kept)
        merged = scatter_tokens(hidden_states, first, positions, axis)
        if not isinstance(result, tuple):
            return merged
        parts = (merged, *result[1:])
        return type(result)(*parts) if hasattr(result, "_fields") else parts

    def _hidden_states(self, args: tuple[Any, ...]) -> torch.Tensor:
        name, router = type(self.layer).__name__, self.router
        if not args or not isinstance(args[0], torch.Tensor):
            raise TypeError(
                f"{name} was called without its hidden states as first positional argument, where "
                "random-LTD looks for them"
            )
        shape = args[0].shape
        if torch.compiler.is_compiling():
            # The compiler takes the router's integers for constants: compared with them, the lengths
            # of the tensors would be constants too, and each would be compiled for.
            return args[0]
        expected = (router.num_rows, router.sequence_length)
        batch_axis, sequence_axis = self.interface.batch_axis, self.interface.sequence_axis
        if len(shape) < 2 or (shape[batch_axis], shape[sequence_axis]) != expected:
            raise ValueError(
                f"{name} got hidden states of shape {tuple(shape)}, but the model was called with "
                f"{expected[0]} rows of {expected[1]} tokens (batch axis {batch_axis}, sequence axis "
                f"{sequence_axis}): check hidden_state_order, and call layers through the model only"
            )
        return args[0]

    def _check_result(self, result: Any, first: Any, kept: torch.Tensor) -> None:
        name = type(self.layer).__name__
        if not isinstance(first, torch.Tensor):
            raise TypeError(
                f"{name} returned a {type(result).__name__}: random-LTD needs a tensor, or a tuple "
                "that starts with the hidden states"
            )
        if first.shape != kept.shape:
            raise ValueError(
                f"{name} returned shape {tuple(first.shape)} for hidden states of shape "
                f"{tuple(kept.shape)}: must be equal"
            )


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
