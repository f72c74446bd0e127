"""No command writes over what it reads, nor where it would read it the next time."""

import json
import os

import numpy as np
import pytest

from data_efficiency.difficulty_index import DifficultyIndex
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.tokenizer import train_bpe
from tools import (
    analyze_data,
    evaluate_gpt,
    gather_results,
    merge_datasets,
    plan,
    prepare_demo_corpus,
    preprocess_data,
    train_tokenizer,
)

TOKENIZER = ("--tokenizer-file", "corpus_text_document.meta.json")
LEARN = ("--vocab-size", "260", "--overwrite", "--input")
PREPROCESS = ("--workers", "1", "--overwrite", *TOKENIZER, "--input")
PLAN = ("--train-steps", "1", "--seq-length", "8", "--num-samples", "9", "--picture")
EVALUATE = ("--checkpoint", "run", "--tasks", "local_piqa", "--data-folder", ".")
COMMANDS = {
    "tokenizer over its text": (train_tokenizer, *LEARN, "a.json", "--output", "a.json"),
    "by a hard link": (train_tokenizer, *LEARN, "a.json", "--output", "hard.json"),
    "by a symbolic link": (train_tokenizer, *LEARN, "a.json", "--output", "soft.json"),
    "by another path": (train_tokenizer, *LEARN, "a.json", "--output", "run/../a.json"),
    "one of two": (train_tokenizer, *LEARN, "b.txt", "a.json", "--output", "a.json"),
    "into its folder": (train_tokenizer, *LEARN, ".", "--output", "new.json"),
    "corpus over its tokenizer": (
        preprocess_data,
        *PREPROCESS,
        "b.txt",
        "--output-prefix",
        "corpus",
    ),
    "corpus into its folder": (preprocess_data, *PREPROCESS, ".", "--output-prefix", "new"),
    "demo over its text": (
        *(prepare_demo_corpus, "--overwrite", "--input", "c.jsonl", "--output", "c.jsonl"),
    ),
    "merge over a part": (
        *(merge_datasets, "--overwrite", "--without-metadata"),
        *("--input", "corpus", "--output-prefix", "./corpus"),
    ),
    "merge into the folder": (merge_datasets, "--input", ".", "--output-prefix", "new"),
    "table over a result": (gather_results, "--run", "x=a.json", "--output", "a.json"),
    "table among results": (gather_results, "--run", "x=.", "--output", "new.json"),
    "picture over the config": (plan, "config.json", *PLAN, "config.json"),
    "picture over the index": (analyze_data, "show", "index", "--histogram", "index/order.npy"),
    "results over the tokenizer": (
        *(evaluate_gpt, *EVALUATE, "--output", "a.json", "--tokenizer-file", "a.json"),
    ),
    "results over the checkpoint": (evaluate_gpt, *EVALUATE, "--output", "run/latest"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest").write_text("global_step1")
    for name in ("a.json", "c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": "the low and the lowest"}) + "\n")
    (tmp_path / "b.txt").write_text("the newest and the widest")
    (tmp_path / "config.json").write_text("{}")
    os.link(tmp_path / "a.json", tmp_path / "hard.json")
    (tmp_path / "soft.json").symlink_to("a.json")
    train_bpe(["the low"], 260).save(tmp_path / "corpus_text_document.meta.json")
    with IndexedDatasetWriter(tmp_path / "corpus", "uint16") as writer:
        writer.add_documents(np.array([1, 2, 3]), [3])
    DifficultyIndex.write(
        tmp_path / "index", np.arange(3), metric="length", dataset_identity={"name": "x"}
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_read_is_not_written(folder, refused, name):
    command, *arguments = COMMANDS[name]
    before = contents(folder)
    line = refused(command.main, arguments)
    assert "would be written over the input" in line or "would be written into the input" in line
    assert contents(folder) == before
