"""A small corpus, its difficulty index, and a JSON file with both techniques on."""

import pytest

from tests.end_to_end import bert_runs
from tests.end_to_end.engine_runs import finish, flags_of, log_lines, start
from tests.end_to_end.tiny_runs import SEQ_LENGTH, write_composed, write_text
from tests.processes import run_python


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with tokenizer.json, corpus_text_document.* and the index difficulty/vocab_rarity."""
    folder = tmp_path_factory.mktemp("workspace")
    write_text(folder / "text.jsonl")
    run_python(
        *("tools/train_tokenizer.py", "--input", folder / "text.jsonl"),
        *("--vocab-size", 400, "--output", folder / "tokenizer.json"),
    )
    run_python(
        *("tools/preprocess_data.py", "--input", folder / "text.jsonl", "--workers", 1),
        *("--tokenizer-file", folder / "tokenizer.json", "--append-eod"),
        *("--output-prefix", folder / "corpus"),
    )
    run_python(
        *("tools/analyze_data.py", "run", "--data-path", folder / "corpus_text_document"),
        *("--split", "9,1,0", "--seq-length", SEQ_LENGTH, "--metric", "vocab_rarity"),
        *("--save", folder / "difficulty", "--num-processes", 1),
    )
    return folder


@pytest.fixture(scope="session")
def composed_config(workspace):
    """Path of a JSON file with curriculum and random-LTD on, two loader workers."""
    return write_composed(workspace / "composed.json", workspace, num_workers=2)


@pytest.fixture(scope="session")
def write_config(workspace):
    """Writes the composed JSON file for a ZeRO stage and returns its path."""
    return lambda stage=None: write_composed(
        workspace / f"engines_{stage}.json", workspace, stage=stage
    )


@pytest.fixture(scope="session")
def one_process(workspace, write_config):
    """Folder of the run on plain PyTorch with one process."""
    folder = workspace / "one_process"
    finish(start(flags_of(workspace, write_config(), folder)))
    lengths = {line["sequence_length"] for line in log_lines(folder) if line["kind"] == "train"}
    kept = {line["kept_length"] for line in log_lines(folder) if line["kind"] == "train"}
    assert len(lengths) > 2
    assert len(kept) > 2
    return folder


@pytest.fixture(scope="session")
def bert_workspace(tmp_path_factory):
    """A folder with the corpus `sentences` and its indexes below difficulty/, for BERT."""
    return bert_runs.write_workspace(tmp_path_factory.mktemp("bert"))
