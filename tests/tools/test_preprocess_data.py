import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nltk
import numpy as np
import pytest

from megatron.data.bert_dataset import BertDataset, BertSettings
from megatron.data.indexed_dataset import IndexedDataset
from megatron.tokenizer import build_tokenizer, train_bpe, train_wordpiece
from tests.megatron.corpus.abbreviated_text import sentences, text
from tests.processes import run_python
from tools import preprocess_data

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["the first document", "", "the second, naïve ☃", "third"]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(TEXTS, 270).save(path)
    return path


@pytest.fixture
def arguments(tmp_path, tokenizer_file):
    (tmp_path / "in").mkdir()
    content = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "in" / "a.jsonl").write_text(content)
    (tmp_path / "in" / "b.txt").write_text("a whole file\nof two lines")
    (tmp_path / "in" / "c.csv").touch()
    return [
        *("--input", str(tmp_path / "in")),
        *("--output-prefix", str(tmp_path / "out" / "corpus")),
        *("--tokenizer-file", str(tokenizer_file)),
        *("--workers", "1"),
    ]


def test_folder_becomes_a_verified_corpus(tmp_path, arguments, tokenizer_file, capsys):
    assert preprocess_data.main([*arguments, "--append-eod", "--verify"]) == 0
    tokenizer = build_tokenizer(tokenizer_file=tokenizer_file)
    corpus = IndexedDataset(tmp_path / "out" / "corpus_text_document")
    texts = [text for text in TEXTS if text] + ["a whole file\nof two lines"]
    assert [row.tolist() for row in corpus] == [
        [*tokenizer.encode(text), tokenizer.eod] for text in texts
    ]
    output = capsys.readouterr()
    assert "left out 1 files with other endings" in output.out
    assert f"4 documents, {corpus.num_tokens} tokens, 1 empty documents left out" in output.out
    assert "verified, 4 documents tokenized again" in output.out
    assert output.err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--input", "/nowhere/a.jsonl"], "error: /nowhere/a.jsonl: no such input file or folder"),
        (["--tokenizer-file", "/nowhere/t.json"], "error: /nowhere/t.json: no such tokenizer"),
        (["--merge-file", "merges.txt"], "error: give either --tokenizer-file, or --vocab-file"),
        (["--output-prefix", "/dev/null/x"], "error: /dev/null: cannot be written to"),
        (["--workers", "0"], "error: --workers is 0"),
        (["--json-keys", "a", "b"], "a text file has no keys"),
    ],
)
def test_wrong_arguments_end_in_one_line(tmp_path, arguments, refused, changes, message):
    assert message in refused(preprocess_data.main, [*arguments, *changes])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.fixture
def sentence_arguments(tmp_path, monkeypatch):
    """Flags for a corpus of sentences, where no model of nltk is installed."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    (tmp_path / "in").mkdir()
    content = "".join(json.dumps({"text": one}) + "\n" for one in [text(0, 40), "", "One.\n\nTwo"])
    (tmp_path / "in" / "a.jsonl").write_text(content)
    train_wordpiece([text(0, 40)], 100).save(tmp_path / "tokenizer.json")
    return [
        *("--input", str(tmp_path / "in"), "--split-sentences", "--workers", "1", "--verify"),
        *("--output-prefix", str(tmp_path / "out" / "c")),
        *("--tokenizer-file", str(tmp_path / "tokenizer.json")),
    ]


def test_sentences_by_a_learned_model_that_can_be_given_again(tmp_path, sentence_arguments, capsys):
    assert preprocess_data.main(sentence_arguments) == 0
    output = capsys.readouterr()
    assert "c_sentence_model.json: learned where sentences end" in output.out
    assert "c_text_sentence: 2 documents, 122 sentences, " in output.out
    assert "c_text_sentence: verified, 2 documents tokenized again" in output.out
    assert output.err == ""
    corpus = IndexedDataset(tmp_path / "out" / "c_text_sentence")
    assert np.diff(corpus.document_index).tolist() == [120, 2]
    tokenizer = build_tokenizer(tokenizer_file=tmp_path / "tokenizer.json")
    assert tokenizer.decode(corpus[1].tolist()) == sentences(0)[1].lower()
    dataset = BertDataset(corpus.prefix, BertSettings(sequence_length=32), split="1")
    assert tokenizer.decode(dataset[0]["tokens"].tolist()).startswith("[CLS]")

    model = str(tmp_path / "out" / "c_sentence_model.json")
    other = ["--output-prefix", str(tmp_path / "out" / "d"), "--sentence-model", model]
    assert preprocess_data.main([*sentence_arguments, *other]) == 0
    again = tmp_path / "out" / "d_text_sentence.idx"
    assert again.read_bytes() == (tmp_path / "out" / "c_text_sentence.idx").read_bytes()
    assert not (tmp_path / "out" / "d_sentence_model.json").exists()


def test_sentences_by_nltks_own_model(tmp_path, sentence_arguments, capsys):
    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (folder / name).touch()
    (folder / "abbrev_types.txt").write_text("dr\nvol\napprox\n")
    models = str(tmp_path / "nltk")
    said = run_python("tools/preprocess_data.py", *sentence_arguments, NLTK_DATA=models)
    assert "learned" not in said
    assert "c_text_sentence: 2 documents, 122 sentences, " in said
    assert not (tmp_path / "out" / "c_sentence_model.json").exists()


def test_errors_of_sentences_are_one_line(sentence_arguments, tokenizer_file, refused):
    piped = [flag for flag in sentence_arguments if flag != "--verify"]
    changes = {
        "standard input can be read only once, so no model": [*piped, "--input", "-"],
        "exclude each other": [*sentence_arguments, "--append-eod"],
        "has no [CLS] and no": [*sentence_arguments, "--tokenizer-file", str(tokenizer_file)],
        "no such file with a model": [*sentence_arguments, "--sentence-model", "/nowhere"],
        "belongs to --split-sentences": [
            *(flag for flag in sentence_arguments if flag != "--split-sentences"),
            *("--sentence-model", "a"),
        ],
    }
    for message, arguments in changes.items():
        assert message in refused(preprocess_data.main, arguments)


def test_standard_input_becomes_a_corpus(tmp_path, tokenizer_file):
    command = [
        *(sys.executable, str(ROOT / "tools" / "preprocess_data.py"), "--input", "-"),
        *("--output-prefix", str(tmp_path / "piped"), "--tokenizer-file", str(tokenizer_file)),
        *("--workers", "1"),
    ]

    def run(*more):
        content = "".join(json.dumps({"text": one}) + "\n" for one in TEXTS)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, *more], input=content, env=environment, capture_output=True, text=True
        )

    assert "standard input can be read only once" in run("--verify").stderr
    assert run().returncode == 0
    assert IndexedDataset(tmp_path / "piped_text_document").num_documents == 3


def start_long_run(folder, tokenizer_file):
    """A run of many seconds, of which the first tokens are written."""
    line = json.dumps({"text": "the first document " * 40}) + "\n"
    (folder / "input.jsonl").write_text(line * (32 * 1024 * 1024 // len(line)))
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "tools" / "preprocess_data.py")),
            *("--input", str(folder / "input.jsonl"), "--output-prefix", str(folder / "corpus")),
            *("--tokenizer-file", str(tokenizer_file), "--workers", "1"),
        ],
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    partial = folder / "corpus_text_document.bin.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_leaves_nothing(tmp_path, tokenizer_file, number, code):
    """As a terminal sends Ctrl-C and a scheduler SIGTERM: to the workers as well."""
    with start_long_run(tmp_path, tokenizer_file) as process:
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert [path.name for path in tmp_path.iterdir()] == ["input.jsonl"]
    assert error == b"interrupted; nothing half-written is left\n"
