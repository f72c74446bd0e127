"""What stands around each layer: it runs on the kept tokens only, the others pass by."""

import inspect
from typing import Any

import torch
from torch import nn

from data_efficiency.routing.draw_memory import KeptDraw
from data_efficiency.routing.layer_interface import LayerInterface, tensors_in
from data_efficiency.routing.router import Router
from data_efficiency.routing.token_ops import put_back, take_kept


class LayerForward:
    """A layer's `forward` with random-LTD around it.

    Args:
        number: place among the layers that drop; None for a layer that only passes on which forward
            its hidden states belong to, so that several layers can be recomputed together.
    """

    def __init__(
        self, layer: nn.Module, interface: LayerInterface, router: Router, number: int | None
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
        """What the layer returns, its hidden states as long as those it was given."""
        if not self.layer.training:
            return self.original(*args, **kwargs)
        if not args or not isinstance(args[0], torch.Tensor):
            return self._without_hidden_states(args, kwargs)
        draw = self._draw(args[0])
        if draw is None or draw.positions is None or self.number is None:
            result = self.original(*args, **kwargs)
        else:
            result = self._drop(draw.positions[self.number], args, kwargs)
        self._remember(draw, args[0], result)
        return result

    def _remember(self, draw: KeptDraw | None, hidden_states: torch.Tensor, result: Any) -> None:
        if draw is not None and not torch.compiler.is_compiling():
            self.router.remember(draw, hidden_states, _first(result))

    def _without_hidden_states(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.number is None:
            return self.original(*args, **kwargs)
        raise TypeError(
            f"{type(self.layer).__name__} was called without its hidden states as first positional "
            "argument, where random-LTD looks for them"
        )

    def _draw(self, hidden_states: torch.Tensor) -> KeptDraw | None:
        """The draw of the forward that this call belongs to; None where nobody needs it."""
        router = self.router
        if not router.in_forward:
            recall = torch.compiler.disable(router.memory.recall)
            recalled: KeptDraw | None = recall(hidden_states, needed=self.number is not None)
            return recalled
        if not router.is_dropping or (router.shape_is_told and torch.compiler.is_compiling()):
            # The compiler takes the draw's integers for constants: compared with them, the lengths
            # of the tensors would be constants too, and each would be compiled for.
            return router.draw
        draw_for = self._draw_for
        if torch.compiler.is_compiling():
            draw_for = torch.compiler.disable(draw_for)
        return draw_for(tuple(hidden_states.shape), hidden_states.device)

    def _draw_for(self, shape: tuple[int, ...], device: torch.device) -> KeptDraw | None:
        """The draw of this forward, made again if it does not fit hidden states of `shape`."""
        router, interface = self.router, self.interface
        if len(shape) < 2:
            raise ValueError(
                f"{type(self.layer).__name__} got hidden states of shape {shape}: must have a "
                "batch and a sequence axis"
            )
        seen = (shape[interface.batch_axis], shape[interface.sequence_axis])
        if seen != (router.draw.num_rows, router.draw.sequence_length):
            if self.number is None and router.shape_is_final:
                return None
            router.correct_shape(*seen, device)
        return router.draw

    def _drop(self, positions: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden_states, interface = args[0], self.interface
        axis = interface.sequence_axis
        length = hidden_states.shape[axis]
        passing, kept = take_kept(hidden_states, positions, axis)
        names = (*self.names, *(f"number {i}" for i in range(len(self.names), len(args))))
        given = [*zip(names[1:], args[1:], strict=False), *kwargs.items()]
        for name, value in given:
            if name in interface.caches:
                # Before the masks, which a filled cache makes longer than the sequence.
                interface.shorten(name, value, positions, length, self.layer)
        others = [
            interface.shorten(name, value, positions, length, self.layer)
            for name, value in given[: len(args) - 1]
        ]
        keywords = {
            name: interface.shorten(name, value, positions, length, self.layer)
            for name, value in kwargs.items()
        }
        result = self.original(kept, *others, **keywords)
        self._check_result(result, kept)
        merged = put_back(passing, _first(result), positions, axis)
        if not isinstance(result, tuple):
            return merged
        parts = (merged, *result[1:])
        return type(result)(*parts) if hasattr(result, "_fields") else parts

    def _check_result(self, result: Any, kept: torch.Tensor) -> None:
        name, first = type(self.layer).__name__, _first(result)
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
        if not isinstance(result, tuple):
            return
        kept_length = kept.shape[self.interface.sequence_axis]
        for tensor in tensors_in(result[1:]):
            if kept_length in tensor.shape:
                raise ValueError(
                    f"{name} returned, beside the hidden states, a tensor of shape "
                    f"{tuple(tensor.shape)}, which goes with the {kept_length} kept tokens only: do "
                    "not ask for attention weights or caches in training with random-LTD"
                )


class PassingForward(LayerForward):
    """A layer's `forward` that drops nothing and only passes on which forward it belongs to.

    Code of its own, so that compiled code of the dropping layers need not tell the two apart.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        if not (self.layer.training and args and isinstance(args[0], torch.Tensor)):
            return self.original(*args, **kwargs)
        draw = self._draw(args[0])
        result = self.original(*args, **kwargs)
        self._remember(draw, args[0], result)
        return result


def _first(result: Any) -> Any:
    """The hidden states in what a layer returned."""
    return (*result, None)[0] if isinstance(result, tuple) else result
