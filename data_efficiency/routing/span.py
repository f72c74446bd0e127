"""What layers one after the other share that keep one subset of the tokens."""

import weakref
from collections.abc import Callable

import torch

from data_efficiency.routing.draw_memory import KeptDraw

_ADVICE = (
    "the layers of a span are recomputed by a reentrant checkpointing, layer by layer, to which the tokens that "
    "pass by the span are unknown: recompute with use_reentrant=False, or whole spans at once"
)


class Span:
    """Layers from a first to a last one: the sequence is cut before the first and whole again behind the last.

    Between the two it holds what passes by. The last layer of a forward that is being recomputed finds it as long
    as that forward's graph lives; nothing keeps it longer.
    """

    def __init__(self, number: int, layers: tuple[int, ...]) -> None:
        self.number = number
        """Of its subset, among those of a forward."""
        self.first, self.last = layers[0], layers[-1]
        self.close()

    def __reduce__(self) -> tuple[Callable[..., "Span"], tuple[int, tuple[int, int]]]:
        # A copy has no forward under way.
        return Span, (self.number, (self.first, self.last))

    def close(self) -> None:
        """Forget what passes by: no forward is between the first and the last layer."""
        self._draw: KeptDraw | None = None
        self._passing: torch.Tensor | None = None
        self._had_gradients = False

    def enter(self, draw: KeptDraw, passing: torch.Tensor, *, in_forward: bool) -> None:
        """Take what passes by, behind the cut.

        Args:
            passing: the first result of `take_kept`.
            in_forward: the layer is not being recomputed.
        """
        if self.first == self.last:
            # The same call puts the tokens back.
            return
        self._draw, self._passing = draw, passing
        self._had_gradients = torch.is_grad_enabled()
        if in_forward and not torch.compiler.is_compiling() and passing.grad_fn is not None:
            held = passing.detach()
            # As long as the graph lives a layer may be recomputed, and not longer.
            passing.grad_fn.held = held  # type: ignore[attr-defined]
            draw.passing[self.number] = weakref.ref(held)

    def leave(self, draw: KeptDraw) -> torch.Tensor:
        """What passes by, for `put_back`.

        Raises:
            RuntimeError: where it is not known, or its gradient would be lost.
        """
        passing, had_gradients = self._passing, self._had_gradients
        is_open = passing is not None and self._draw is draw
        self.close()
        if is_open and passing is not None:
            if had_gradients != torch.is_grad_enabled():
                raise RuntimeError(_ADVICE)
            return passing
        held = draw.passing.get(self.number)
        found = None if held is None else held()
        if found is None:
            raise RuntimeError(_ADVICE)
        return found
