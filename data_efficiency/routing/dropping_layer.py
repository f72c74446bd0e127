"""What stands around each layer: it runs on the kept tokens and rows only, the others pass by."""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from data_efficiency.routing.draw_memory import KeptDraw
from data_efficiency.routing.layer_interface import LayerInterface, tensors_in
from data_efficiency.routing.proof import form_of
from data_efficiency.routing.refused_result import RefusedResult
from data_efficiency.routing.router import Router
from data_efficiency.routing.row_shares import RowShares
from data_efficiency.routing.span import Span
from data_efficiency.routing.token_ops import (
    put_back,
    put_rows_back,
    scaled_change,
    take_kept,
    take_rows,
)


class LayerForward:
    """A layer's `forward` with its routes around it.

    Args:
        layer_id: number among the model's layers, from 0.
        span: the layers that it shares its subset of tokens with; None: it drops no tokens.
        skips_rows: whether rows may skip it.
        shares: of the processes that share each row; None: the layer sees all tokens.

    A layer with neither only passes on which forward its hidden states belong to, so that several layers can
    be recomputed together.
    """

    is_first = True
    """Whether the sequence is cut before the layer, if it drops tokens."""
    is_last = True
    """Whether it is whole again behind it."""

    def __init__(
        self,
        layer: nn.Module,
        interface: LayerInterface,
        router: Router,
        layer_id: int,
        *,
        span: Span | None = None,
        skips_rows: bool = False,
        shares: RowShares | None = None,
    ) -> None:
        self.layer = layer
        self.original = layer.forward
        self.interface = interface
        self.router = router
        self.layer_id = layer_id
        self.span = span
        self.skips_rows = skips_rows
        self.shares = shares
        self.rows: torch.Tensor | None = None
        self.row_scale: torch.Tensor | None = None
        """Those of the present forward's draw. Here, where code compiled once serves every layer: out of a list of
        the draw's, each layer's number would be a constant, with code of its own."""
        self.was_called = False
        """Whether the present forward of the model has called the layer."""
        self.proved_forms: set[Any] = set()
        self.proved_length = 0
        """Tokens of the longest sequence that each of these forms of calls is proved for."""
        self.forms_proved_for_rows: set[Any] = set()
        router.layers.append(self)
        parameters = list(inspect.signature(layer.forward).parameters.values())
        self.names = tuple(
            parameter.name
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy asks the class for the layer's own method: the copied layer may have this forward in its place by then.
        is_own = getattr(self.original, "__func__", None) is type(self.layer).forward
        return {**vars(self), "original": None if is_own else self.original}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if state["original"] is None:
            self.original = MethodType(type(self.layer).forward, self.layer)

    @property
    def is_routed(self) -> bool:
        """Whether the layer may see less than all tokens of all rows."""
        return self.span is not None or self.skips_rows

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns; its hidden states are as long as those it was given, but within a span."""
        return self._forward(args, kwargs)

    def _forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.layer.training:
            return self.original(*args, **kwargs)
        if not args or not isinstance(args[0], torch.Tensor):
            return self._without_hidden_states(args, kwargs)
        self._note_call()
        draw = self._draw(args[0])
        if draw is None or draw.positions is None or self.span is None:
            result = self._call(draw, args, kwargs)
        else:
            result = self._drop(draw, draw.positions[self.span.number], args, kwargs)
        self._remember(draw, args[0], result)
        return result

    def needs_proof(self, length: int) -> bool:
        """Whether the layer is to drop tokens of sequences so long, and is not proved for them."""
        drops_unproved = self.span is not None and not self.interface.proved
        return drops_unproved and self.proved_length < length

    def needs_proof_for_rows(self) -> bool:
        """Whether rows are to skip the layer, and no call of it is proved for that."""
        return self.skips_rows and not self.interface.proved and not self.forms_proved_for_rows

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
        if not self.is_routed:
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
                needed=self.is_routed,
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
                num_rows, length = draw.sizes.shape[0], self._length_given(draw)
                if (
                    num_rows == shape[interface.batch_axis]
                    and length == shape[interface.sequence_axis]
                ):
                    router.shape_is_final = True
                    return draw
            draw_for = torch.compiler.disable(draw_for)
        return draw_for(tuple(hidden_states.shape), hidden_states.device)

    def _draw_for(self, shape: tuple[int, ...], device: torch.device) -> KeptDraw | None:
        """The draw of this forward, made again if it does not fit hidden states of `shape`."""
        router, interface, name = self.router, self.interface, type(self.layer).__name__
        if len(shape) != 3:
            if not self.is_routed:
                return None
            raise ValueError(
                f"{name} got hidden states of shape {shape}: must be three axes, batch, sequence and "
                "hidden; random-LTD can drop no tokens of other layers"
            )
        seen = (
            shape[interface.batch_axis],
            shape[interface.sequence_axis] * (1 if self.shares is None else self.shares.size),
        )
        draw = router.draw
        if seen != (draw.num_rows, self._length_given(draw)):
            if not self.is_routed and router.shape_is_final:
                return None
            router.correct_shape(*seen, device, name)
        return router.draw

    def _length_given(self, draw: KeptDraw) -> int:
        """Tokens of the hidden states that the layer is called with."""
        if self.is_first or draw.positions is None:
            return draw.sizes.shape[1]
        return draw.positions.shape[2]

    def shorten(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], positions: torch.Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments beside the hidden states as the tokens at `positions` need them.

        Args:
            args: the hidden states, of all tokens, first.

        Raises:
            ValueError, TypeError: as `LayerInterface.shorten`, naming the layer's class.
        """
        length = args[0].shape[self.interface.sequence_axis]
        return self._changed(
            args,
            kwargs,
            lambda name, value: self.interface.shorten(name, value, positions, length, self.layer),
        )

    def choose_rows(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: torch.Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments beside the hidden states as these rows need them.

        Raises:
            ValueError: as `LayerInterface.choose_rows`, naming the layer's class.
        """
        num_rows = args[0].shape[self.interface.batch_axis]
        return self._changed(
            args,
            kwargs,
            lambda name, value: self.interface.choose_rows(name, value, rows, num_rows, self.layer),
        )

    def _changed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], short: Callable[[str, Any], Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments beside the hidden states, each as `short` makes it."""
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

    def _drop(
        self,
        draw: KeptDraw,
        positions: torch.Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What the layer returns for the kept tokens; behind the last layer of a span, of all tokens."""
        assert self.span is not None
        axis, span = self.interface.sequence_axis, self.span
        kept, passing = args[0], args[0]
        if self.is_first:
            args = (self._whole(args[0]), *args[1:])
            passing, kept = take_kept(args[0], positions, axis)
            kept = self._own(kept)
            span.enter(draw, passing, in_forward=self.router.in_forward)
        else:
            # For its shape: of all tokens, as the other arguments are.
            shape = list(kept.shape)
            shape[axis] = draw.sizes.shape[1]
            args = (kept.new_empty(1).expand(shape), *args[1:])
        others, keywords = self.shorten(args, kwargs, positions)
        if not self.interface.proved:
            self._prove(args, kwargs)
        result = self._call(draw, (kept, *others), keywords)
        hidden = self.hidden_states_in(result, kept)
        if draw.token_scale is not None:
            scale = draw.token_scale[span.number]
            scale = scale if axis == 1 else scale.transpose(0, 1)
            scale = self._own(scale) if scale.shape[axis] > 1 else scale
            hidden = scaled_change(kept, hidden, scale)
        if self.is_last:
            if not self.is_first:
                passing = span.leave(draw)
            hidden = self._own(put_back(passing, self._whole(hidden), positions, axis))
        return _with_hidden_states(result, hidden, type(self.layer).__name__, kept.shape[axis])

    def _whole(self, tokens: torch.Tensor) -> torch.Tensor:
        """All tokens of the rows, of those that this process has."""
        shares = self.shares
        return tokens if shares is None else shares.whole(tokens, self.interface.sequence_axis)

    def _own(self, tokens: torch.Tensor) -> torch.Tensor:
        """This process's tokens, of all of the rows."""
        shares = self.shares
        return tokens if shares is None else shares.own(tokens, self.interface.sequence_axis)

    def _call(self, draw: KeptDraw | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the layer itself returns, the rows that skip it unchanged."""
        rows, scale = self.rows, self.row_scale
        if not self.router.in_forward:  # recomputed
            rows, scale = (None, None) if draw is None else draw.rows_of(self.layer_id)
        if rows is None:
            return self.original(*args, **kwargs)
        axis = self.interface.batch_axis
        others, keywords = self.choose_rows(args, kwargs, rows)
        if not self.interface.proved:
            self._prove_rows(args, kwargs)
        passing, kept = take_rows(args[0], rows, axis)
        result = self.original(kept, *others, **keywords)
        hidden = self.hidden_states_in(result, kept)
        if scale is not None:
            hidden = scaled_change(kept, hidden, scale)
        whole = put_rows_back(passing, hidden, rows, axis)
        return _with_hidden_states(result, whole, type(self.layer).__name__, kept.shape[axis])

    def _prove(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have it proved that the layer may drop tokens, where that is not known for such a call."""
        router = self.router
        if not router.in_forward:  # recomputed
            return
        form = self._form_of(args, kwargs)
        if router.proof_is_due or form not in self.proved_forms:
            prove = router.proofs.prove
            if torch.compiler.is_compiling():
                prove = torch.compiler.disable(prove)
            prove(self, form, args, kwargs)

    def _prove_rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have it proved that rows may skip the layer, where that is not known for such a call."""
        if not self.router.in_forward:  # recomputed
            return
        form = self._form_of(args, kwargs)
        if self.router.proof_is_due or form not in self.forms_proved_for_rows:
            prove = self.router.proofs.prove_rows
            if torch.compiler.is_compiling():
                prove = torch.compiler.disable(prove)
            prove(self, form, args, kwargs)

    def _form_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return form_of(((*zip(self._names_of(args), args, strict=True),), kwargs))

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


def _with_hidden_states(result: Any, hidden: torch.Tensor, name: str, kept_size: int) -> Any:
    """What a layer returned with other hidden states; what goes with the kept part only must not be used.

    Args:
        name: of the layer's class.
        kept_size: kept tokens or rows.
    """
    if not isinstance(result, tuple | list):
        return hidden
    rest = result[1:]
    if any(kept_size in tensor.shape for tensor in tensors_in(rest)):
        unusable = RefusedResult(name)
        rest = tree_map_only(torch.Tensor, lambda t: unusable if kept_size in t.shape else t, rest)
    parts = (hidden, *rest)
    return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)


def _first(result: Any) -> Any:
    """The hidden states in what a layer returned."""
    return (*result, None)[0] if isinstance(result, tuple | list) else result
