import gzip
import json
import sys

import pytest

from data_efficiency.command.data_flags import FilesAndFolders, folder_dataset, json_rows
from data_efficiency.command.parser import command_parser
from tests.data_efficiency.small_corpus import word_tokenizer, write_corpus

TEXTS = ["the fox", "the the fox the", "owl"]


@pytest.fixture
def folder(tmp_path):
    """corpus.bin and .idx, texts.jsonl, a folder `saved` of two datasets, tokenizer.json."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(["the", "fox", "owl"]))
    write_corpus(tmp_path / "corpus", [[1, 2], [1, 1, 2, 1], [3]])
    lines = [json.dumps({"id": text[:1], "text": text}) for text in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n\n".join(lines))
    saved = datasets.Dataset.from_dict({"text": TEXTS, "input_ids": [[7], [8, 8], [9]]})
    both = datasets.DatasetDict({"train": saved, "later": saved.select([0])})
    both.save_to_disk(tmp_path / "saved")
    saved.save_to_disk(tmp_path / "one")
    return tmp_path


def opened(folder, *words, save="save"):
    parser = command_parser("")
    FilesAndFolders().add_flags(parser, is_required=True)
    return FilesAndFolders().open(parser.parse_args(list(map(str, words))), folder / save)


def rows_of(dataset):
    return [dataset.token_spans(i, i + 1)[0].tolist() for i in range(len(dataset))]


def test_each_kind_of_data_is_told_by_its_path(folder):
    tokenizer = ["--tokenizer", folder]
    windows = opened(folder, folder / "corpus", "--seq-length", 3, "--split", "1")
    assert rows_of(windows) == [[1, 2, 1, 1], [1, 2, 1, 3]]
    assert not (folder / "save").exists()
    expected = [[1, 2], [1, 1, 2, 1], [3]]
    lines = opened(folder, folder / "texts.jsonl", *tokenizer)
    assert rows_of(lines) == expected
    assert lines.identity == {"type": "Dataset", "num_samples": 3}
    named = opened(folder, folder / "one", *tokenizer, "--column", "text", save="b")
    assert rows_of(named) == expected
    assert rows_of(opened(folder, folder / "saved", save="c")) == [[7], [8, 8], [9]]
    assert rows_of(opened(folder, folder / "saved", "--split", "later", save="d")) == [[7]]
    # A changed file is another dataset.
    (folder / "texts.jsonl").write_text(json.dumps({"text": "fox"}))
    with pytest.raises(FileExistsError, match="tokens that are of another dataset"):
        opened(folder, folder / "texts.jsonl", *tokenizer)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corpus"], "is a corpus, which is cut into samples: give --seq-length"),
        (["texts.jsonl", "--seq-length", 3], "--seq-length belongs to a corpus"),
        (["none"], "no such corpus .*, file of JSON lines, or folder of datasets"),
        (["tokenizer.txt"], "JSON lines end with .jsonl, "),
        (["empty"], "doesn't contain any data files"),
        (["one", "--split", "train"], "holds one dataset"),
        (["saved", "--split", "x"], "--split is x: .* holds train, later"),
    ],
)
def test_data_that_are_not_there_or_not_named_right(folder, words, message):
    (folder / "empty").mkdir()
    (folder / "tokenizer.txt").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        opened(folder, folder / words[0], *words[1:])


def test_shards_are_read_in_the_order_of_their_names(folder):
    datasets = pytest.importorskip("datasets")
    shards = folder / "shards"
    shards.mkdir()
    for number, text in enumerate(TEXTS):
        shard = datasets.Dataset.from_dict({"text": [text]})
        shard.to_parquet(shards / f"train-0000{number}.parquet")
    words = [shards, "--tokenizer", folder]
    found = opened(folder, *words)
    assert rows_of(found) == [[1, 2], [1, 1, 2, 1], [3]]
    assert found.identity == {"type": "Dataset", "num_samples": 3}
    stamp = (found.folder / "manifest.json").stat().st_mtime_ns
    assert opened(folder, *words).manifest == found.manifest
    assert (found.folder / "manifest.json").stat().st_mtime_ns == stamp
    (shards / "train-00001.parquet").unlink()
    with pytest.raises(FileExistsError, match="tokens that are of another dataset"):
        opened(folder, *words)


def test_lines_of_json(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": 2}\n'))
    assert list(json_rows(tmp_path / "a.jsonl.gz")) == [{"a": 1}, {"a": 2}]
    for text, message in (("[1]", "line 1 is no JSON object"), ("{", "line 1 is not valid JSON")):
        (tmp_path / "b.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            list(json_rows(tmp_path / "b.jsonl"))


def test_without_datasets(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'data-efficiency\[datasets\]'"):
        folder_dataset(folder / "one", None)
