"""Corpora of sentences whose tokens tell where they stand."""

import numpy as np

from megatron.data.indexed_dataset import IndexedDatasetWriter

CLS, SEP, PAD, MASK = 1, 2, 3, 4
FIRST_TOKEN = 10
CONTROL = {"cls": CLS, "sep": SEP, "pad": PAD, "mask": MASK}


def write_sentences(prefix, documents, metadata=None):
    """Writes documents, each the lengths of its sentences; token i of the corpus is 10 + i."""
    lengths = [length for sentences in documents for length in sentences]
    tokens = np.arange(sum(lengths), dtype=np.int32) + FIRST_TOKEN
    facts = {
        "vocab_size": FIRST_TOKEN + len(tokens),
        "control_tokens": CONTROL,
        "tokenizer_fingerprint": "counting",
    }
    with IndexedDatasetWriter(prefix, np.dtype("int32")) as writer:
        writer.add_documents(tokens, lengths, [len(sentences) for sentences in documents])
        writer.finish(facts if metadata is None else metadata)
    return prefix
