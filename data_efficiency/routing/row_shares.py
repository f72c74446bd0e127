"""Rows whose tokens several processes share, as the layers' routes see them."""

from typing import Protocol

import torch


class RowShares(Protocol):
    """The processes that share each row (sequence parallelism): a layer is called with the own tokens' hidden states.

    Routing calls no collective of its own: this does, and all processes of the row call it alike.
    """

    size: int
    """How many processes share a row."""

    def whole(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """All tokens of the rows, the same on every process, of the own ones."""

    def own(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        """This process's tokens, of all, which are the same on every process."""
