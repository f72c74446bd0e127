"""A small corpus, the settings of a tiny GPT on it, and its run at the beginning."""

import numpy as np

import pretrain_gpt
from megatron.arguments import parse_run_config
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.training import setup_model_and_optimizer

SEQ_LENGTH = 16


def write_corpus(folder):
    """Path of 60 documents of 50 tokens below 100."""
    path = str(folder / "corpus")
    lengths = np.full(60, 50, np.int32)
    tokens = np.random.default_rng(0).integers(0, 100, lengths.sum()).astype(np.uint16)
    with IndexedDatasetWriter(path, np.dtype("uint16")) as writer:
        writer.add_documents(tokens, lengths)
    return path


def flags_of(prefix, *flags):
    return [
        *("--data-path", prefix, "--split", "8,2,0", "--seq-length", str(SEQ_LENGTH)),
        *("--num-layers", "2", "--hidden-size", "32", "--num-attention-heads", "2"),
        *("--vocab-size", "128", "--max-position-embeddings", str(SEQ_LENGTH)),
        *("--train-iters", "6", "--micro-batch-size", "4", "--global-batch-size", "8"),
        *flags,
    ]


def settings(prefix, *flags):
    return parse_run_config("", flags_of(prefix, *flags))


def make_run(config, task=pretrain_gpt.TASK):
    return setup_model_and_optimizer(config, task, *task.make_datasets(config))
