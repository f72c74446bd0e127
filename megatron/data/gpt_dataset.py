"""Fixed-length samples for GPT: the windows of a corpus as inputs and labels.

`data_efficiency/analysis/token_windows.py` says which tokens a sample holds.
"""

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.token_windows import TokenWindows


class GPTDataset(TokenWindows):
    """The samples of one split of a corpus, as `TokenWindows`."""

    def __getitem__(self, sample: int) -> dict[str, NDArray[np.int64]]:
        """`tokens` and `labels`, int64 [sequence_length] each."""
        if not 0 <= sample < len(self):
            raise IndexError(f"sample {sample} of a dataset of {len(self)}")
        return {name: rows[0] for name, rows in self.get_batch(np.array([sample])).items()}

    def get_batch(
        self, samples: NDArray[np.int64], visits: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """`tokens` and `labels` of some samples, int64 [batch, sequence_length] each."""
        starts = np.asarray(samples, np.int64) * self.sequence_length
        windows = self.tokens[starts[:, None] + np.arange(self.sequence_length + 1)]
        windows = windows.astype(np.int64)
        return {"tokens": windows[:, :-1], "labels": windows[:, 1:]}
