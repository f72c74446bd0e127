"""The forward of a converted model: begun with what its arguments tell, uncompiled while it has something to prove."""

import inspect
from collections.abc import Mapping
from functools import update_wrapper
from typing import Any

import torch
from torch import nn

from data_efficiency.routing.layer_interface import tensors_in
from data_efficiency.routing.proof import uncompiled
from data_efficiency.routing.router import Router
from data_efficiency.routing.unfit_layers import NO_REPLICAS
from data_efficiency.token_names import rows_and_length


def follow_forwards(root: nn.Module, router: Router, *, proves: bool) -> None:
    """Let the router know when a forward of the model begins and ends.

    Args:
        proves: whether its layers prove at their first forward that they may drop tokens.
    """
    if proves:
        root.forward = _ForwardThatProves(root, router)
    root.register_forward_pre_hook(_BeginForward(router), prepend=True, with_kwargs=True)
    root.register_forward_hook(router.end_forward, always_call=True)


class _ForwardThatProves:
    """The model's `forward`, uncompiled as long as it has something to prove.

    Else compiled code would be split at each proof, and remain so when all is proved.
    """

    def __init__(self, module: nn.Module, router: Router) -> None:
        update_wrapper(self, module.forward)
        self.module, self.original = module, module.forward
        self.router = router

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        if args and args[0] is self.module:
            # Made a method of the model anew, as Accelerate does where it takes its own wrapper off.
            args = args[1:]
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
            raise ValueError(NO_REPLICAS)
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
