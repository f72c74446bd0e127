"""A copy of a layer with random weights, whatever runs around the layer and wherever its weights are."""

import re
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn


def copy_with_random_weights(
    layer: nn.Module, forward: Callable[..., Any], device: torch.device
) -> Callable[..., Any] | None:
    """`forward` of a copy of the layer, in float32 and uncompiled; None if it is no method of the layer.

    The copy has no hooks; buffers and tensors among the attributes are copied, other objects shared. Its
    weights are of the whole layer's shapes, also where each process holds a part (ZeRO-3, FSDP2).
    """
    generator = torch.Generator(device).manual_seed(0)
    copies: dict[int, Any] = {}
    modules = [m for m in layer.modules() if not isinstance(m, torch.jit.ScriptModule)]
    for module in modules:
        copies[id(module)] = object.__new__(_class_without_sharding(type(module)))
        for weight in module._parameters.values():
            if weight is not None and id(weight) not in copies:
                copies[id(weight)] = _random_weight(weight, generator)
    for module in modules:
        if hasattr(module, "_orig_mod"):  # compiled
            copies[id(module)] = copies[id(module._orig_mod)]
    for module in modules:
        if not hasattr(module, "_orig_mod"):
            _fill(copies[id(module)], module, copies, device)
    # Ours, which drops.
    vars(copies[id(layer)]).pop("forward", None)
    copied = _copied(forward, copies, device)
    return None if copied is forward else copied


def _fill(copy: nn.Module, module: nn.Module, copies: dict[int, Any], device: torch.device) -> None:
    for name, value in vars(module).items():
        if "_hooks" in name and isinstance(value, dict):
            vars(copy)[name] = type(value)()
        elif name in ("_parameters", "_buffers", "_modules"):
            # As a plain dict: ZeRO-3 puts one of its own in place of the first.
            vars(copy)[name] = {key: _copied(one, copies, device) for key, one in value.items()}
        elif name != "_compiled_call_impl":
            vars(copy)[name] = _copied(value, copies, device)


def _class_without_sharding(of: type) -> type:
    """The class that FSDP2 derived a module's class from; else the class itself."""
    if any(ancestor.__name__ == "FSDPModule" for ancestor in of.__bases__):
        return next(base for base in of.__bases__ if base.__name__ != "FSDPModule")
    return of


def _random_weight(weight: nn.Parameter, generator: torch.Generator) -> nn.Parameter:
    """A weight of the same shape with outputs of about unit size, and none near zero in vectors."""
    if not weight.is_floating_point():
        return weight
    shape = getattr(weight, "ds_shape", weight.shape)
    values = torch.empty(tuple(shape), device=generator.device)
    if values.dim() < 2:
        signs = torch.empty_like(values).bernoulli_(0.5, generator=generator) * 2 - 1
        values.uniform_(0.5, 1.5, generator=generator).mul_(signs)
    else:
        bound = (3 / max(1, *shape[-2:])) ** 0.5
        values.uniform_(-bound, bound, generator=generator)
    return nn.Parameter(values, requires_grad=False)


def _copied(value: Any, copies: dict[int, Any], device: torch.device) -> Any:
    """What the copy holds in place of an attribute; unknown objects are shared."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, torch.Tensor):
        own = value.detach().to(device).clone()
        return own.float() if own.is_floating_point() else own
    if isinstance(value, MethodType):
        owner = _copied(value.__self__, copies, device)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if isinstance(value, partial):
        parts = (value.func, *value.args), value.keywords
        (function, *args), keywords = (_copied(part, copies, device) for part in parts)
        same = function is value.func and all(a is b for a, b in zip(args, value.args, strict=True))
        return value if same else partial(function, *args, **keywords)
    if type(value) in (list, tuple, set):
        return type(value)(_copied(one, copies, device) for one in value)
    if type(value) is dict:
        return {key: _copied(one, copies, device) for key, one in value.items()}
    return value


def are_alike(first: nn.Module, second: nn.Module, distance: int) -> bool:
    """Whether two layers compute the same but for their weights, as far as their attributes tell.

    Args:
        distance: places between the layers in the model: whole numbers so far apart are their numbers.
    """
    modules = [[*layer.named_modules()] for layer in (first, second)]
    if len(modules[0]) != len(modules[1]):
        return False
    for (name, one), (other_name, other) in zip(*modules, strict=True):
        if name != other_name or type(one) is not type(other):
            return False
        left_out = {"_modules", "_compiled_call_impl"} | ({"forward"} if one is first else set())
        mine, others = (
            {k: v for k, v in vars(module).items() if k not in left_out and "_hooks" not in k}
            for module in (one, other)
        )
        if not _same(mine, others, distance):
            return False
    return True


def _same(one: Any, other: Any, distance: int) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, nn.Parameter):
        return getattr(one, "ds_shape", one.shape) == getattr(other, "ds_shape", other.shape)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, MethodType):
        owners = type(one.__self__), type(other.__self__)
        return (
            one.__func__ is other.__func__
            and owners[0] is owners[1]
            and issubclass(owners[0], nn.Module)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            _same(value, other[key], distance) or _is_number(key, value, other[key], distance)
            for key, value in one.items()
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other, [distance] * len(one)))
    return isinstance(one, int | float | str | set | torch.dtype | torch.device) and bool(
        one == other
    )


def _is_number(name: Any, one: Any, other: Any, distance: int) -> bool:
    """Whether an attribute holds the layers' numbers in the model."""
    named = isinstance(name, str) and re.search(r"(^|_)(idx|index|id|number)$|layer", name)
    return bool(named) and type(one) is type(other) is int and other - one == distance
