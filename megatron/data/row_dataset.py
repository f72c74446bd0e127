"""Datasets that are read many samples at a time: one sample is a batch of one."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


class RowDataset(ABC):
    """What its classes have in common: the reading of a single sample."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples."""

    @abstractmethod
    def get_batch(self, samples: Int64Array, visits: Int64Array | None = None) -> dict[str, Any]:
        """Entries of some samples, [batch, ...] each.

        Args:
            samples: int64 [batch], sample numbers.
            visits: int64 [batch], how often each was visited before; None: never.
        """

    def __getitem__(self, sample: int) -> dict[str, Any]:
        """The entries of one sample at its first visit: those of `get_batch` without their first axis.

        Raises:
            IndexError: for a number that no sample has, which ends an iteration too.
        """
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of a dataset of {len(self)}")
        return {name: rows[0] for name, rows in self.get_batch(np.array([sample])).items()}
