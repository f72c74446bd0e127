"""Fixed-length samples for GPT: the windows of a corpus as inputs and labels.

`data_efficiency/analysis/token_windows.py` says which tokens a sample holds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_efficiency.analysis.token_windows import TokenWindows
from megatron.data.documents import Documents
from megatron.data.row_dataset import RowDataset


class GPTDataset(TokenWindows, RowDataset):
    """The samples of one split of a corpus, as `TokenWindows`.

    Args:
        documents: what the ends of documents change. They change no token, so that an index serves in any case.
    """

    def __init__(self, prefix: str, *, documents: Documents | None = None, **options: Any) -> None:
        super().__init__(prefix, **options)
        self.documents_in_rows = documents or Documents()
        self.end_of_text = self.documents_in_rows.known_end(self._corpus.metadata)
        """Token that ends documents; None where it is not known."""
        self._end = None
        if self.documents_in_rows.flags:
            self._end = self.documents_in_rows.end_in(prefix, self._corpus.metadata)

    def get_batch(
        self, samples: NDArray[np.int64], visits: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """`tokens` and `labels` of some samples, and what is told of documents, int64 [batch, sequence_length] each."""
        starts = np.asarray(samples, np.int64) * self.sequence_length
        windows = self.tokens[starts[:, None] + np.arange(self.sequence_length + 1)]
        windows = windows.astype(np.int64)
        tokens, labels = windows[:, :-1], windows[:, 1:]
        if self._end is None:
            return {"tokens": tokens, "labels": labels}
        return {"tokens": tokens, **self.documents_in_rows.entries(tokens, labels, self._end)}
