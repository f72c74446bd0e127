"""docs/analysis.md, its commands run as they stand on a small corpus."""

import json
import os
import re
import shlex
import subprocess

import numpy as np
import pytest

from data_efficiency import DifficultyIndex
from data_efficiency.analysis.named_metrics import METRICS
from data_efficiency.command import main as data_efficiency_command
from megatron.data.indexed_dataset import IndexedDatasetWriter
from megatron.tokenizer import train_bpe, train_wordpiece
from tests.end_to_end.tiny_runs import ROOT
from tests.processes import run_python
from tools import analyze_data

PAGE = (ROOT / "docs" / "analysis.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SCRIPTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
NUM_DOCUMENTS = 100


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the corpus and the scores that the page takes for granted."""
    texts = [f"{'the slow fox jumps ' * 100}{number}" for number in range(NUM_DOCUMENTS)]
    tokenizer = train_bpe(texts, 270)
    tokenizer.save(tmp_path / "tokenizer.json")
    documents = tokenizer.encode_batch(texts)
    (tmp_path / "tokens").mkdir()
    corpus = str(tmp_path / "tokens" / "my_text_document")
    with IndexedDatasetWriter(corpus, np.dtype("uint16")) as writer:
        writer.add_documents(np.concatenate(documents), [len(ids) for ids in documents])
        writer.finish(
            {"vocab_size": tokenizer.vocab_size, "tokenizer_fingerprint": tokenizer.fingerprint}
        )
    wordpiece = train_wordpiece(texts, 100)
    wordpiece.save(tmp_path / "tokens" / "tokenizer.json")
    sentences = wordpiece.encode_batch(["the slow fox jumps", "a fox is here"] * 500)
    with IndexedDatasetWriter(
        str(tmp_path / "tokens" / "my_text_sentence"), np.dtype("uint16")
    ) as writer:
        lengths = [len(ids) for ids in sentences]
        writer.add_documents(np.concatenate(sentences), lengths, [10] * 100)
        writer.finish(
            {
                "vocab_size": wordpiece.vocab_size,
                "tokenizer_fingerprint": wordpiece.fingerprint,
                "control_tokens": wordpiece.control_tokens,
            }
        )
    rows = [json.dumps({"text": text}) for text in ("a slow fox", "a fox is here", "the fox")]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    (tmp_path / "scores").mkdir()
    lines = [json.dumps({"metadata": {"score": number}}) for number in range(NUM_DOCUMENTS)]
    (tmp_path / "scores" / "quality.jsonl").write_text("\n".join(lines))
    for model, loss in (("weak", 5), ("strong", 3)):
        DifficultyIndex.write(
            tmp_path / "difficulty" / model / "reference_loss",
            np.full(9, loss),
            metric="reference_loss",
            dataset_identity={"rows": "the same"},
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_here(command):
    words = shlex.split(command)
    if words[0] == "data-efficiency":
        assert data_efficiency_command(words[1:]) == 0, command
        return
    assert words[:2] == ["python", "tools/analyze_data.py"]
    assert analyze_data.main(words[2:]) == 0, command


def submit(command, folder):
    """Lines of a dry run of a command that submits jobs."""
    command = command.replace("examples_deepspeed/", f"{ROOT}/examples_deepspeed/")
    ended = subprocess.run(
        ["bash", "-c", f"DRY_RUN=1 {command}"],
        env={"PATH": os.environ["PATH"]},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_every_command_of_the_page(folder, capsys):
    submitted = []
    for block in BLOCKS:
        for command in block.replace("\\\n", " ").splitlines():
            if "LAUNCHER=slurm" in command:
                submitted.append(command)
                # Before anything was analyzed there are four jobs, now rarity alone.
                assert [line[:3] for line in submit(command, folder)] == ["mkd", "job", "job"]
            else:
                run_here(command)
    assert len(submitted) == 1
    assert (folder / "rarity.png").is_file()
    DifficultyIndex.open(folder / "bert_difficulty" / "seqlen_vocab_rarity").verify()
    for name in ("vocab_rarity", "seqlen", "quality"):
        DifficultyIndex.open(folder / "difficulty" / name).verify()
    original = DifficultyIndex.open("difficulty/vocab_rarity")
    imported = DifficultyIndex.open("imported/vocab_rarity")
    assert imported.order.tolist() == original.order.tolist()
    output = capsys.readouterr().out
    assert "percentile 99: sample " in output
    assert "slow fox" in output


def test_the_python_of_the_page(folder):
    pytest.importorskip("datasets")
    (script,) = [one for one in SCRIPTS if "datatrove" not in one]
    names = {}
    exec(script, names)
    assert names["index"].num_samples == 3


@pytest.mark.full
def test_the_pipelines_of_the_page(folder):
    pytest.importorskip("datatrove", reason="needs the extra `full`: make test-full installs it")
    (script,) = [one for one in SCRIPTS if "datatrove" in one]
    for theirs, ours in (
        ("tasks=32, workers=8", "tasks=2, workers=2"),
        ("processes=8", "processes=2"),
    ):
        assert theirs in script
        script = script.replace(theirs, ours)
    (folder / "texts").mkdir()
    for number in range(2):
        text = (folder / "texts.jsonl").read_text()
        (folder / "texts" / f"{number}.jsonl").write_text(text)
    (folder / "script.py").write_text(script)
    run_python(folder / "script.py", cwd=folder)
    data_efficiency_command(
        [
            "analyze",
            "texts",
            "--tokenizer",
            "tokenizer.json",
            "--save",
            "here",
            "--metric",
            "seqlen",
        ]
    )
    for name in ("manifest.json", "values.npy", "order.npy"):
        first, second = (folder / place / "seqlen" / name for place in ("difficulty", "here"))
        assert first.read_bytes() == second.read_bytes()


def test_the_page_names_every_metric():
    for name in set(METRICS) - {"total_vocab_freq"}:
        assert f"| `{name}` |" in PAGE
