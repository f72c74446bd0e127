"""What stands around a layer, by its place on its routes: code of its own for each, so that compiled code is shared."""

from typing import Any

import torch

from data_efficiency.routing.dropping_layer import LayerForward
from data_efficiency.routing.span import Span


class FirstOfSpan(LayerForward):
    """The first layer of a span of several.

    Code of its own, as of the classes below: so compiled code need not tell them apart, nor be compiled again for it.
    """

    is_last = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `LayerForward`."""
        return self._forward(args, kwargs)


class WithinSpan(LayerForward):
    """A layer of a span that is neither its first nor its last."""

    is_first = is_last = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `LayerForward`."""
        return self._forward(args, kwargs)


class LastOfSpan(LayerForward):
    """The last layer of a span of several."""

    is_first = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `LayerForward`."""
        return self._forward(args, kwargs)


class PassingForward(LayerForward):
    """A layer's `forward` that drops nothing and only passes on which forward it belongs to."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer returns."""
        if not (self.layer.training and args and isinstance(args[0], torch.Tensor)):
            return self.original(*args, **kwargs)
        self._note_call()
        draw = self._draw(args[0])
        result = self.original(*args, **kwargs)
        self._remember(draw, args[0], result)
        return result


def forward_class(layer_id: int, span: Span | None, *, skips_rows: bool) -> type[LayerForward]:
    """What stands around a layer of such routes."""
    if span is None:
        return LayerForward if skips_rows else PassingForward
    is_first, is_last = layer_id == span.first, layer_id == span.last
    kinds = (LayerForward, FirstOfSpan, WithinSpan, LastOfSpan)
    return next(kind for kind in kinds if (kind.is_first, kind.is_last) == (is_first, is_last))
