"""The running average of a run's weights, evaluated and saved beside them.

A constant learning rate and an average in the place of a decay: an exponential moving average over the steps, each
as if the average had begun with the run (no part of it is left from the first weights).
Source: EMA of weights as in arXiv 2511.18903 (curricula win with it); its correction for the beginning is Adam's (arXiv
1412.6980, section 3).
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
import torch.distributed

from data_efficiency import Engine
from data_efficiency.engine.whole_tensor import WholeTensor, whole_tensors


class WeightAverage:
    """An exponential moving average of whole weights, float32, which process 0 holds for all.

    Args:
        decay: what is left of a step's share after the next step, in [0, 1).
        interval: steps between two updates, each of which counts for all of them.
    """

    def __init__(self, decay: float, interval: int = 1) -> None:
        self._decay, self._interval = decay**interval, interval
        self._tensors: dict[str, torch.Tensor] = {}
        self.num_updates = 0

    @torch.no_grad()
    def update(self, engine: Engine) -> None:
        """Take in the weights of a finished step; all processes must call it after each.

        Whatever the engine keeps in parts is put together, tensor by tensor, which other processes take part in.
        """
        if engine.counters.steps % self._interval:
            return
        self.num_updates += 1
        share = (1 - self._decay) / (1 - self._decay**self.num_updates)
        for tensor in engine.whole_weights():
            found = tensor.gather()
            if not engine.ranks.is_first:
                continue
            if tensor.dtype.is_floating_point and tensor.name in self._tensors:
                self._tensors[tensor.name].lerp_(found.float(), share)
            else:
                kind = torch.float32 if tensor.dtype.is_floating_point else tensor.dtype
                self._tensors[tensor.name] = found.to(kind, copy=True)

    @contextlib.contextmanager
    def in_place(self, engine: Engine) -> Iterator[None]:
        """Let the engine have the average as its weights within the block; all processes must enter.

        Before the first update it keeps its own. Its own are back to the bit afterwards.
        """
        if not self.num_updates:
            yield
            return
        announced = engine.whole_weights()
        own = {tensor.name: tensor.gather().clone() for tensor in announced}
        engine.load_whole_weights(_shared(engine, announced, self._tensors))
        try:
            yield
        finally:
            engine.load_whole_weights(_shared(engine, announced, own))

    def whole(self) -> list[WholeTensor]:
        """The average's tensors by the weights' names; process 0 has them."""
        return whole_tensors(self._tensors)

    def load(self, engine: Engine, tensors: Mapping[str, torch.Tensor], num_updates: int) -> None:
        """Go on with a saved average.

        Raises:
            ValueError: if names or shapes are not those of the weights.
        """
        shapes = {tensor.name: tensor.shape for tensor in engine.whole_weights()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != shapes:
            other = sorted(
                name for name in {*found, *shapes} if found.get(name) != shapes.get(name)
            )
            raise ValueError(
                f"the saved average of the weights is of another model: {', '.join(other[:3])}"
            )
        self.num_updates = num_updates
        if engine.ranks.is_first:
            self._tensors = {
                name: tensor.to(engine.ranks.device, copy=True) for name, tensor in tensors.items()
            }


def _shared(
    engine: Engine, announced: list[WholeTensor], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Process 0's tensors on every process."""
    if engine.ranks.world == 1:
        return dict(tensors)
    shared = {}
    for tensor in announced:
        kind = torch.float32 if tensor.dtype.is_floating_point else tensor.dtype
        whole = torch.empty(tensor.shape, dtype=kind, device=engine.ranks.device)
        if engine.ranks.is_first:
            whole.copy_(tensors[tensor.name])
        torch.distributed.broadcast(whole, 0)
        shared[tensor.name] = whole
    return shared
