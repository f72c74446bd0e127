"""The command on a real corpus, from flags to files."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from data_efficiency.difficulty_index import DifficultyIndex
from megatron.data.gpt_dataset import GPTDataset
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.tokenizer import train_bpe
from tools import analyze_data

SEQ_LENGTH = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with tokenizer.json and the corpora `told`, with a sidecar, and `untold`, without."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"the {'slow ' * (number % 5)}fox {number} jumps" for number in range(200)]
    tokenizer = train_bpe(texts, 300)
    tokenizer.save(folder / "tokenizer.json")
    documents = tokenizer.encode_batch(texts)
    for name, metadata in (("told", {"vocab_size": tokenizer.vocab_size}), ("untold", None)):
        with IndexedDatasetWriter(str(folder / name), np.dtype("uint16")) as writer:
            writer.add_documents(np.concatenate(documents), [len(ids) for ids in documents])
            writer.finish(metadata)
    return folder


@pytest.fixture
def flags(corpus):
    return [
        "--data-path",
        str(corpus / "told"),
        "--split",
        "8,1,1",
        "--seq-length",
        str(SEQ_LENGTH),
    ]


def test_run_show_verify(tmp_path, corpus, flags, capsys):
    save = ["--save", str(tmp_path / "d"), "--num-processes", "2"]
    assert analyze_data.main(["run", *flags, "--metric", "vocab_rarity", *save]) == 0
    index = DifficultyIndex.open(tmp_path / "d" / "vocab_rarity")
    dataset = GPTDataset(str(corpus / "told"), split="8,1,1", sequence_length=SEQ_LENGTH)
    index.check_dataset(dataset)
    output = capsys.readouterr().out
    assert f"samples          {len(dataset):,}\n" in output
    assert output.endswith(f"{index.path}\n")

    tokenizer = ["--tokenizer-file", str(corpus / "tokenizer.json")]
    picture = ["--histogram", str(tmp_path / "h.png")]
    assert analyze_data.main(["show", str(index.path), *flags, *tokenizer, *picture]) == 0
    output = capsys.readouterr().out
    assert output.count("\npercentile 50: sample ") == 1
    assert " fox" in output
    assert (tmp_path / "h.png").stat().st_size > 5000

    assert analyze_data.main(["show", str(index.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == len(dataset)
    assert analyze_data.main(["verify", str(index.path)]) == 0
    assert "checksums and order are right" in capsys.readouterr().out

    values = index.path / "values.npy"
    values.write_bytes(values.read_bytes()[:-1] + b"\xff")
    assert analyze_data.main(["verify", str(index.path)]) == 1
    assert "values.npy was changed after it was written" in capsys.readouterr().err


def test_frequencies_alone(tmp_path, flags, capsys):
    arguments = ["run", *flags, "--metric", "total_vocab_freq", "--save", str(tmp_path)]
    assert analyze_data.main(arguments) == 0
    assert " tokens counted\n" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["total_vocab_freq"]


def fails(capsys, arguments):
    """The one line that a failing command prints to stderr."""
    assert analyze_data.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_errors_are_one_line_and_leave_nothing(tmp_path, corpus, flags, capsys):
    save = ["--save", str(tmp_path / "d")]
    corpus_flags = ["--data-path", str(corpus / "untold"), "--seq-length", "8"]
    line = fails(capsys, ["run", *corpus_flags, *save])
    assert line.endswith("untold has an unknown number of entries: give --vocab-size, at least 1")
    line = fails(capsys, ["run", *flags, *save, "--vocab-size", "0"])
    assert "give --vocab-size, at least 1" in line
    line = fails(capsys, ["run", *corpus_flags, *save, "--vocab-size", "20"])
    assert "is outside the vocabulary of 20 entries" in line
    assert not (tmp_path / "d").exists() or list((tmp_path / "d").iterdir()) == []
    line = fails(capsys, ["run", *flags, *save, "--num-processes", "0"])
    assert line == "error: number of processes is 0: at least 1 is needed"
    line = fails(capsys, ["run", "--data-path", "none", "--seq-length", "8", *save])
    assert line.startswith("error: ")
    assert "none" in line
    (tmp_path / "file").touch()
    fails(capsys, ["run", *flags, "--save", str(tmp_path / "file")])
    line = fails(capsys, ["show", str(tmp_path)])
    assert "is not a difficulty index: manifest.json is missing" in line


def test_index_of_another_dataset(tmp_path, corpus, flags, capsys):
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path)]) == 0
    capsys.readouterr()
    tokenizer = ["--tokenizer-file", str(corpus / "tokenizer.json")]
    index = str(tmp_path / "vocab_rarity")
    line = fails(capsys, ["show", index, *flags[:-1], "9", *tokenizer])
    assert "sequence_length: expected 8, found 9" in line
    line = fails(capsys, ["show", index, *tokenizer])
    assert line == "error: examples need --data-path, --split and --seq-length as in `run`"


def test_stopping_says_how_to_continue(tmp_path, flags, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt("vocab_rarity: stopped; run the same again to continue")

    monkeypatch.setitem(analyze_data.METRICS, "vocab_rarity", stop)
    assert analyze_data.main(["run", *flags, "--save", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "vocab_rarity: stopped; run the same again to continue\n"


def test_exit_code_of_the_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analyze_data.py", "verify", "none"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(Path(analyze_data.__file__)), run_name="__main__")
    assert caught.value.code == 1
    assert "none is not a difficulty index" in capsys.readouterr().err
