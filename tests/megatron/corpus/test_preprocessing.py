import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from megatron.corpus import text_sources
from megatron.corpus.preprocessing import PreprocessingJob, encode_documents, preprocess
from megatron.corpus.sentence_splitter import SentenceSplitter
from megatron.corpus.text_sources import find_sources
from megatron.data.indexed_dataset import IndexedDataset

EOD = 256
MODEL = {"abbrev_types": [], "collocations": [], "sent_starters": [], "ortho_context": {}}
RECORDS = [
    {
        "text": f"document {number} " + "x" * (number % 7),
        "title": "" if number % 5 else f"t{number}",
    }
    for number in range(400)
]


class ByteTokenizer:
    """Tokens are bytes; a lone "~" gives none, and "!die" ends the process."""

    vocab_size = 257
    eod = EOD
    fingerprint = "bytes"
    control_tokens = {"cls": 1, "sep": 2, "pad": 3, "mask": 4}

    def encode(self, text):
        if text == "!die":
            os._exit(1)
        return [] if text == "~" else list(text.encode())

    def encode_batch(self, texts):
        return [np.array(self.encode(text), np.int32) for text in texts]


def splitter_of_model():
    return SentenceSplitter(MODEL)


def job_of(folder, records=RECORDS, **fields):
    folder.mkdir(exist_ok=True)
    path = folder / "input.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {
        "sources": find_sources([path])[0],
        "json_keys": ["text"],
        "output_prefix": str(folder / "out"),
        "tokenizer_factory": ByteTokenizer,
        "append_eod": True,
        "num_workers": 1,
    }
    return PreprocessingJob(**(settings | fields))


def outputs(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "input.jsonl")


def test_end_of_document_is_counted_in_the_lengths():
    encoded = encode_documents(ByteTokenizer(), ["ab", " \n", "~", "c", ""], EOD)
    assert encoded.tokens.tolist() == [97, 98, EOD, 99, EOD]
    assert encoded.tokens.dtype == np.uint16
    assert encoded.lengths.tolist() == [3, 2]
    assert vars(encoded.counts) == {
        "num_documents": 2,
        "num_sequences": 2,
        "num_tokens": 5,
        "num_empty_documents": 2,
        "num_tokenless_documents": 1,
    }
    plain = encode_documents(ByteTokenizer(), ["ab", "c"], None)
    assert (plain.tokens.tolist(), plain.lengths.tolist()) == ([97, 98, 99], [2, 1])
    assert len(encode_documents(ByteTokenizer(), [" "], EOD).tokens) == 0


def test_sentences_are_grouped_into_documents():
    splitter = SentenceSplitter(MODEL)
    texts = ["One is. Two are.", " ", "~", "Three.\n\n~\n\nFour", "Five"]
    encoded = encode_documents(ByteTokenizer(), texts, None, splitter)
    sentences = ["One is.", "Two are.", "Three.", "Four", "Five"]
    assert bytes(encoded.tokens.tolist()).decode() == "".join(sentences)
    assert encoded.lengths.tolist() == [len(sentence) for sentence in sentences]
    assert encoded.sequences_per_document.tolist() == [2, 2, 1]
    assert vars(encoded.counts) == {
        "num_documents": 3,
        "num_sequences": 5,
        "num_tokens": len("".join(sentences)),
        "num_empty_documents": 1,
        "num_tokenless_documents": 1,
    }
    nothing = encode_documents(ByteTokenizer(), ["~", " "], None, splitter)
    assert (len(nothing.tokens), len(nothing.sequences_per_document)) == (0, 0)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_sentence_corpus_whatever_the_number_of_workers(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(text_sources, "BLOCK_BYTES", 500)
    monkeypatch.setattr(text_sources, "_READ_BYTES", 100)
    records = [
        {"text": f"Number {i} is here. It was {i}." + " And so on." * (i % 4)} for i in range(90)
    ]
    job = job_of(
        tmp_path,
        records,
        num_workers=num_workers,
        append_eod=False,
        splitter_factory=splitter_of_model,
    )
    counts = preprocess(job)["text"]
    corpus = IndexedDataset(tmp_path / "out_text_sentence")
    corpus.verify(257)
    splitter = SentenceSplitter(MODEL)
    documents = [splitter.split(record["text"]) for record in records]
    assert np.diff(corpus.document_index).tolist() == [len(sentences) for sentences in documents]
    assert [bytes(row.tolist()).decode() for row in corpus] == sum(documents, [])
    assert (counts.num_documents, counts.num_sequences) == (90, len(corpus))
    assert corpus.metadata is not None
    assert corpus.metadata["control_tokens"] == ByteTokenizer.control_tokens
    assert corpus.metadata["sentence_model"] == splitter.fingerprint


def test_sentences_and_end_of_document_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="--append-eod and --split-sentences exclude each other"):
        preprocess(job_of(tmp_path, splitter_factory=splitter_of_model))
    assert outputs(tmp_path) == []


@pytest.mark.parametrize("num_workers", [1, 3])
def test_all_keys_are_written_whatever_the_number_of_workers(tmp_path, monkeypatch, num_workers):
    monkeypatch.setattr(text_sources, "BLOCK_BYTES", 500)
    monkeypatch.setattr(text_sources, "_READ_BYTES", 100)
    job = job_of(tmp_path, json_keys=["title", "text"], num_workers=num_workers)
    counts = preprocess(job)
    for key in ("title", "text"):
        texts = [record[key] for record in RECORDS if record[key]]
        corpus = IndexedDataset(job.corpus_prefix(key))
        corpus.verify(257)
        assert [row.tolist() for row in corpus] == [[*text.encode(), EOD] for text in texts]
        assert counts[key].num_documents == len(texts)
        assert counts[key].num_empty_documents == len(RECORDS) - len(texts)
        assert counts[key].num_tokens == corpus.num_tokens
    metadata = IndexedDataset(job.corpus_prefix("title")).metadata
    assert metadata is not None
    assert metadata["sources"] == [
        {
            "path": str(tmp_path / "input.jsonl"),
            "num_bytes": (tmp_path / "input.jsonl").stat().st_size,
        }
    ]
    assert (metadata["vocab_size"], metadata["eod"], metadata["json_key"]) == (257, EOD, "title")
    assert (metadata["num_empty_documents"], metadata["num_documents"]) == (320, 80)
    assert metadata["tokenizer_fingerprint"] == "bytes"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "!die"}, "a worker process died .*; try fewer --workers"),
        ({"title": "a"}, r"input\.jsonl:401: no key 'text'"),
    ],
)
def test_failure_in_a_worker_leaves_nothing(tmp_path, record, message):
    with pytest.raises((OSError, ValueError), match=message):
        preprocess(job_of(tmp_path, [*RECORDS, record]))
    assert outputs(tmp_path) == []


def test_input_without_any_text_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no document with any text under 'text'"):
        preprocess(job_of(tmp_path, [{"text": " "}]))
    assert outputs(tmp_path) == []


def test_existing_corpus_is_replaced_only_when_asked(tmp_path):
    for ending in ("bin", "idx"):
        (tmp_path / f"out_text_document.{ending}").touch()
    with pytest.raises(FileExistsError, match=r"out_text_document\.idx: exists; give --overwrite"):
        preprocess(job_of(tmp_path))
    preprocess(job_of(tmp_path, append_eod=False, overwrite=True))
    corpus = IndexedDataset(tmp_path / "out_text_document")
    assert corpus.metadata is not None
    assert corpus.metadata["eod"] is None
    assert corpus[0].tolist() == list(RECORDS[0]["text"].encode())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_workers": 0}, "--workers is 0: must be at least 1"),
        ({"json_keys": ["a", "a"]}, "give distinct keys"),
        ({"json_keys": ["a/b"]}, "so no '/' in it"),
    ],
)
def test_wrong_job(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        job_of(tmp_path, **fields).check()


def test_text_file_has_no_keys(tmp_path):
    (tmp_path / "a.txt").touch()
    sources, _ = find_sources([tmp_path / "a.txt"])
    with pytest.raises(ValueError, match=r"a\.txt: a text file has no keys"):
        job_of(tmp_path, sources=sources, json_keys=["a", "b"]).check()


def test_factory_that_fails_is_told_before_any_worker_starts(tmp_path):
    factory = functools.partial(int, "no tokenizer")
    with pytest.raises(ValueError, match="no tokenizer"):
        preprocess(job_of(tmp_path, tokenizer_factory=factory))
    assert outputs(tmp_path) == []


def test_table_and_lines_give_the_same_corpora(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "t.parquet")
    table = {"sources": find_sources([tmp_path / "t.parquet"])[0]}
    both = [job_of(tmp_path / name, **fields) for name, fields in (("a", {}), ("b", table))]
    for job in both:
        preprocess(dataclasses.replace(job, json_keys=["text", "title"], num_workers=2))
    for key in ("text", "title"):
        for ending in ("bin", "idx"):
            lines, rows = (Path(f"{job.corpus_prefix(key)}.{ending}") for job in both)
            assert lines.read_bytes() == rows.read_bytes()
    wrong = dataclasses.replace(both[1], json_keys=["body"])
    with pytest.raises(
        ValueError, match=r"t\.parquet: no column 'body'; it has \['text', 'title'\]"
    ):
        wrong.check()
