"""Tiny runs of pretrain_bert.py: a corpus of sentences, its difficulty indexes, JSON, command lines."""

import json

import numpy as np

from data_efficiency import DifficultyIndex
from megatron.data.bert_dataset import BertDataset, BertSettings
from megatron.data.blended_dataset import open_dataset
from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.end_to_end.tiny_runs import SEQ_LENGTH, random_ltd_section, training_flags
from tests.json_sections import length_metric, metric

SCRIPT = "pretrain_bert.py"
SPLIT = "9,1,0"
VOCAB_SIZE = 400
CONTROL = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}


def write_sentences(prefix, num_documents=150):
    """Writes a corpus of uneven documents."""
    generator = np.random.default_rng(5)
    with IndexedDatasetWriter(prefix, np.dtype("uint16")) as writer:
        for _ in range(num_documents):
            lengths = generator.integers(2, 14, generator.integers(2, 9)).astype(np.int32)
            tokens = 5 + generator.zipf(1.4, lengths.sum()) % (VOCAB_SIZE - 5)
            writer.add_documents(tokens.astype(np.uint16), lengths, [len(lengths)])
        writer.finish(
            {
                "vocab_size": VOCAB_SIZE,
                "control_tokens": CONTROL,
                "tokenizer_fingerprint": "made up",
            }
        )


def write_workspace(folder, *, num_documents=150, sequence_length=SEQ_LENGTH, split=SPLIT):
    """A corpus `sentences`, and difficulty/{seqlen, vocab_rarity, seqlen_vocab_rarity}."""
    write_sentences(folder / "sentences", num_documents)
    dataset = open_dataset(
        BertDataset,
        [str(folder / "sentences")],
        BertSettings(sequence_length=sequence_length, mask_prob=0),
        split_name="train",
        split=split,
    )
    batch = dataset.get_batch(np.arange(len(dataset)))
    lengths = batch["padding_mask"].sum(1)
    rarity = np.where(batch["padding_mask"], np.log1p(batch["tokens"]), 0).sum(1)
    for name, values in {
        "seqlen": lengths,
        "vocab_rarity": rarity,
        "seqlen_vocab_rarity": 1000 * lengths + rarity,
    }.items():
        DifficultyIndex.write(
            folder / "difficulty" / name,
            values.astype(np.int64),
            metric=name,
            dataset_identity=dataset.identity,
        )
    return folder


def selecting(workspace, name, total_steps=12, **more):
    """A metric that shows samples in the order of their difficulty."""
    return metric(workspace / "difficulty" / name, steps=total_steps, least=20, **more)


def truncating():
    """The metric that shows short rows first: of [CLS] alone, and of one token more."""
    schedule = {"difficulty": [1, 2, 8, 16, SEQ_LENGTH], "max_step": [1, 7, 9, 13]}
    return length_metric(1, SEQ_LENGTH, schedule_type="fixed_discrete", schedule_config=schedule)


def composed_metrics(workspace):
    """Short samples first, trimmed to the longest of their micro-batch, and cut."""
    return {
        "seqlen": selecting(workspace, "seqlen", sequence_length="trim_padding"),
        "seqlen_truncate": truncating(),
    }


def write_config(path, metrics, *, dropping=True, stage=None, num_workers=0):
    """Writes a JSON file with the metrics and, where asked for, random-LTD; returns its path."""
    content = {
        "data_efficiency": {
            "data_sampling": {
                "num_workers": num_workers,
                "curriculum_learning": {"enabled": bool(metrics), "curriculum_metrics": metrics},
            },
            "data_routing": {
                "random_ltd": random_ltd_section(mask_name="attention_mask")
                | {"enabled": dropping, "model_type": "encoder"}
            },
        }
    }
    if stage is not None:
        content["zero_optimization"] = {"stage": stage}
    path.write_text(json.dumps(content))
    return path


def bert_flags(workspace, config, **flags):
    """The command line of a tiny BERT, both techniques on unless a flag says None.

    So few tokens are masked that many micro-batches, once cut, have none at all.
    """
    return training_flags(
        workspace,
        **{
            "data_path": workspace / "sentences",
            "tokenizer_file": None,
            "split": SPLIT,
            "vocab_size": VOCAB_SIZE,
            "mask_prob": 0.03,
            "micro_batch_size": 2,
            "deepspeed_config": config,
            "random_ltd": True,
            "data_efficiency_curriculum_learning": True,
        }
        | flags,
    )
