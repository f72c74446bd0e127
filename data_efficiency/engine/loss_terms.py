"""The exact loss of a step: each loss summed over the global batch and divided by its number of terms there.

So it does not depend on how the batch is split into processes and micro-batches. The numbers of terms are
known, and added up over the processes, before the first forward.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_efficiency.engine.protocol import Named
from data_efficiency.engine.ranks import Ranks
from data_efficiency.engine.step import mean_losses, named


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Over how many terms the losses of a step are sums, by their names."""

    micro_batches: Sequence[Mapping[str, int]]
    """Of each micro-batch of this process."""
    total: Mapping[str, int]
    """Of the global batch."""

    @classmethod
    def count(
        cls, ranks: Ranks, micro_batches: Sequence[Any], num_terms: Callable[[Any], int | Named]
    ) -> "LossTerms":
        """Those of a step of which this process has some micro-batches; one collective.

        Raises:
            ValueError: for micro-batches with other losses than the first, or what is no number of terms.
        """
        counts = [named(num_terms(batch)) for batch in micro_batches]
        own = [{name: _whole(name, count) for name, count in counted.items()} for counted in counts]
        names = tuple(own[0])
        for counted in own:
            if set(counted) != set(names):
                raise ValueError(
                    f"num_terms gives {sorted(names)} for one micro-batch and {sorted(counted)} for another: the "
                    "names must be equal; give 0 where a loss has no terms"
                )
        sums = ranks.sums([sum(counted[name] for counted in own) for name in names])
        return cls(micro_batches=own, total=dict(zip(names, sums, strict=True)))

    @property
    def loss_tokens(self) -> int:
        """Terms of the first loss in the global batch."""
        return next(iter(self.total.values()))

    def ordered(self, losses: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The losses in the order of their terms.

        Raises:
            ValueError: for other names, or what is no sum in single precision at least.
        """
        if set(losses) != set(self.total):
            raise ValueError(
                f"loss_sums gives {sorted(losses)}, num_terms {sorted(self.total)}: the names must be equal"
            )
        for name, loss in losses.items():
            if loss.dim() or loss.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"the loss {name!r} is a {loss.dtype} of shape {tuple(loss.shape)}: must be a float32 scalar, the sum "
                    "over the micro-batch, which half precision would round or overflow; form it of logits.float()"
                )
        return [losses[name] for name in self.total]

    def share(self, losses: Sequence[torch.Tensor], num_processes: int) -> torch.Tensor:
        """What a micro-batch adds to the global batch's loss, times the processes to be averaged over.

        Args:
            losses: its sums, in the order of the terms.
        """
        first, *others = (
            num_processes * loss / max(1, count)
            for loss, count in zip(losses, self.total.values(), strict=True)
        )
        return sum(others, first)

    def means(self, sums: Sequence[float]) -> dict[str, float]:
        """The losses of the step, given their sums over the global batch."""
        return dict(zip(self.total, mean_losses(sums, list(self.total.values())), strict=True))


def _whole(name: str, count: Any) -> int:
    """A number of terms.

    Raises:
        ValueError: for a fraction, such as a sum of weights, or less than 0.
    """
    number = int(count)
    if number != count or number < 0:
        raise ValueError(
            f"num_terms gives {float(count):g} for {name!r}: must be a whole number of at least 0; weigh the terms in the "
            "sum, and count them here"
        )
    return number
