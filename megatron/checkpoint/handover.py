"""Tensors on their way from the thread that gathers them to the one that writes them."""

from collections import deque
from threading import Condition

import torch


class Handover:
    """First in, first out, between two threads.

    Args:
        limit: so many may wait to be written; None: any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._waiting: deque[torch.Tensor] = deque()
        self._is_closed = False
        self._changed = Condition()

    def give(self, tensor: torch.Tensor) -> None:
        """Hand a tensor over once there is room; after `close` it is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room())
            if not self._is_closed:
                self._waiting.append(tensor)
                self._changed.notify_all()

    def take(self) -> torch.Tensor:
        """The next tensor, once it is there.

        Raises:
            OSError: if there will be none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or bool(self._waiting))
            if self._is_closed:
                raise OSError("not all of what was to be written could be gathered")
            tensor = self._waiting.popleft()
            self._changed.notify_all()
            return tensor

    def close(self) -> None:
        """End it from either side: whoever waits for the other goes on."""
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._limit is None or len(self._waiting) < self._limit
