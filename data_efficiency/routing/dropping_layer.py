"""What stands around each layer: it runs on the kept tokens only, the others pass by."""

import inspect
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from data_efficiency.routing.draw_memory import KeptDraw
from data_efficiency.routing.layer_interface import LayerInterface, tensors_in
from data_efficiency.routing.proof import form_of
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
        self.was_called = False
        """Whether the present forward of the model has called the layer."""
        self.proved_forms: set[Any] = set()
        self.proved_length = 0
        """Tokens of the longest sequence that each of these forms of calls is proved for."""
        router.layers.append(self)
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
        self._note_call()
        draw = self._draw(args[0])
        if draw is None or draw.positions is None or self.number is None:
            result = self.original(*args, **kwargs)
        else:
            result = self._drop(draw.positions[self.number], args, kwargs)
        self._remember(draw, args[0], result)
        return result

    def needs_proof(self, length: int) -> bool:
        """Whether the layer is to drop tokens of sequences so long, and is not proved for them."""
        drops_unproved = self.number is not None and not self.interface.proved
        return drops_unproved and self.proved_length < length

    def _note_call(self) -> None:
        """Raise ValueError if the layer was called before in this forward of the model."""
        if not (self.router.in_forward and self.router.is_dropping):
            return
        if self.was_called:
            raise ValueError(
                f"one {type(self.layer).__name__} was called twice in a forward of the model: random-LTD "
                "needs a layer of its own for each call; convert the part of the model that calls each "
                "layer once, or choose other layers"
            )
        self.was_called = True

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
            recall = torch.compiler.disable(router.recall)
            recalled: KeptDraw | None = recall(
                hidden_states,
                needed=self.number is not None,
                compiled=torch.compiler.is_compiling(),
            )
            return recalled
        draw = router.draw
        if not router.is_dropping:
            return draw
        draw_for = self._draw_for
        if torch.compiler.is_compiling():
            shape, interface = hidden_states.shape, self.interface
            # The compiler takes the draw's integers for constants: compared with them, the lengths of the
            # tensors would be constants too, and each would be compiled for. Sizes stay symbols.
            if router.shape_is_told and len(shape) == 3:
                drawn = draw.sizes.shape
                if (
                    drawn[0] == shape[interface.batch_axis]
                    and drawn[1] == shape[interface.sequence_axis]
                ):
                    router.shape_is_final = True
                    return draw
            draw_for = torch.compiler.disable(draw_for)
        return draw_for(tuple(hidden_states.shape), hidden_states.device)

    def _draw_for(self, shape: tuple[int, ...], device: torch.device) -> KeptDraw | None:
        """The draw of this forward, made again if it does not fit hidden states of `shape`."""
        router, interface, name = self.router, self.interface, type(self.layer).__name__
        if len(shape) != 3:
            if self.number is None:
                return None
            raise ValueError(
                f"{name} got hidden states of shape {shape}: must be three axes, batch, sequence and "
                "hidden; random-LTD can drop no tokens of other layers"
            )
        seen = (shape[interface.batch_axis], shape[interface.sequence_axis])
        if seen != (router.draw.num_rows, router.draw.sequence_length):
            if self.number is None and router.shape_is_final:
                return None
            router.correct_shape(*seen, device, name)
        return router.draw

    def shorten(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], positions: torch.Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments beside the hidden states as the tokens at `positions` need them.

        Raises:
            ValueError, TypeError: as `LayerInterface.shorten`, naming the layer's class.
        """
        length = args[0].shape[self.interface.sequence_axis]

        def short(name: str, value: Any) -> Any:
            return self.interface.shorten(name, value, positions, length, self.layer)

        given = [*zip(self._names_of(args), args, strict=True)][1:]
        try:
            for name, value in (*given, *kwargs.items()):
                if self.interface.is_cache(name, value):
                    # Before the masks, which a filled cache makes longer than the sequence.
                    short(name, value)
            others = tuple(short(name, value) for name, value in given)
            keywords = {name: short(name, value) for name, value in kwargs.items()}
        except (TypeError, ValueError) as error:
            raise type(error)(f"{type(self.layer).__name__}: {error}") from None
        return others, keywords

    def _names_of(self, args: tuple[Any, ...]) -> tuple[str, ...]:
        return (*self.names, *(f"number {i}" for i in range(len(self.names), len(args))))[
            : len(args)
        ]

    def _drop(self, positions: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        axis = self.interface.sequence_axis
        others, keywords = self.shorten(args, kwargs, positions)
        if not self.interface.proved:
            self._prove(args, kwargs)
        passing, kept = take_kept(args[0], positions, axis)
        result = self.original(kept, *others, **keywords)
        merged = put_back(passing, self.hidden_states_in(result, kept), positions, axis)
        if not isinstance(result, tuple | list):
            return merged
        rest = self._without_kept_only(result[1:], kept.shape[axis])
        parts = (merged, *rest)
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)

    def _prove(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have it proved that the layer may drop tokens, where that is not known for such a call."""
        router = self.router
        if not router.in_forward:  # recomputed
            return
        form = form_of(((*zip(self._names_of(args), args, strict=True),), kwargs))
        if router.proof_is_due or form not in self.proved_forms:
            prove = router.proofs.prove
            if torch.compiler.is_compiling():
                prove = torch.compiler.disable(prove)
            prove(self, form, args, kwargs)

    def hidden_states_in(self, result: Any, given: torch.Tensor) -> torch.Tensor:
        """The hidden states in what the layer returned for those `given`.

        Raises:
            TypeError: if there are none.
            ValueError: if they have another shape.
        """
        name, first = type(self.layer).__name__, _first(result)
        if not isinstance(first, torch.Tensor):
            raise TypeError(
                f"{name} returned a {type(result).__name__}: random-LTD needs a tensor, or a tuple "
                "that starts with the hidden states"
            )
        if first.shape != given.shape:
            raise ValueError(
                f"{name} returned shape {tuple(first.shape)} for hidden states of shape "
                f"{tuple(given.shape)}: must be equal"
            )
        return first

    def _without_kept_only(self, results: Any, kept_length: int) -> Any:
        """The results beside the hidden states; what goes with the kept tokens only must not be used."""
        if not any(kept_length in tensor.shape for tensor in tensors_in(results)):
            return results
        unusable = KeptOnly(type(self.layer).__name__)
        return tree_map_only(
            torch.Tensor, lambda t: unusable if kept_length in t.shape else t, results
        )


class PassingForward(LayerForward):
    """A layer's `forward` that drops nothing and only passes on which forward it belongs to.

    Code of its own, so that compiled code of the dropping layers need not tell the two apart.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        if not (self.layer.training and args and isinstance(args[0], torch.Tensor)):
            return self.original(*args, **kwargs)
        self._note_call()
        draw = self._draw(args[0])
        result = self.original(*args, **kwargs)
        self._remember(draw, args[0], result)
        return result


class KeptOnly:
    """Stands for attention weights and the like of a dropping layer: an error as soon as it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by Python itself, as in a copy
            raise AttributeError(attribute)
        self._refuse()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        next(one for one in tree_leaves((args, kwargs)) if isinstance(one, KeptOnly))._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        raise ValueError(
            f"{self._name} returned, beside the hidden states, a tensor that goes with the kept tokens "
            "only: do not use attention weights or caches in training with random-LTD"
        )

    __add__ = __radd__ = __mul__ = __rmul__ = __getitem__ = __iter__ = __len__ = __bool__ = _refuse


def _first(result: Any) -> Any:
    """The hidden states in what a layer returned."""
    return (*result, None)[0] if isinstance(result, tuple | list) else result
