"""What Megatron-core makes of corpora. Runs by itself, in a process that does not see this project.

    python -S megatron_core_peer.py FOLDER

FOLDER has `rows.json` (documents, each a list of sequences of token ids), and corpora `first` and `second`. The
builder writes the rows to `built`, and joins the two corpora to `merged`; what the reader finds in `first` is printed.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder


def main(folder):
    builder = IndexedDatasetBuilder(str(folder / "built.bin"), dtype=np.uint16)
    for document in json.loads((folder / "rows.json").read_text()):
        tokens = [token for sequence in document for token in sequence]
        builder.add_document(torch.tensor(tokens, dtype=torch.int64), list(map(len, document)))
    builder.finalize(str(folder / "built.idx"))

    builder = IndexedDatasetBuilder(str(folder / "merged.bin"), dtype=np.uint16)
    for name in ("first", "second"):
        builder.add_index(str(folder / name))
    builder.finalize(str(folder / "merged.idx"))

    corpus = IndexedDataset(str(folder / "first"))
    found = {
        "rows": [corpus[number].tolist() for number in range(len(corpus))],
        "document_indices": corpus.document_indices.tolist(),
        "dtype": corpus[0].dtype.name,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
