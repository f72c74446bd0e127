import numpy as np
import pytest

from megatron.data.indexed_dataset import IndexedDataset, IndexedDatasetWriter
from tools import merge_datasets


@pytest.fixture
def parts(tmp_path):
    """A folder of two corpora, the second without a sidecar."""
    for name, token in (("a", 1), ("b", 2)):
        with IndexedDatasetWriter(tmp_path / "parts" / name, "uint16") as writer:
            writer.add_documents(np.array([token] * 3), [3])
            if name == "a":
                writer.finish({"tokenizer_fingerprint": "t"})
    return tmp_path / "parts"


def test_a_folder_becomes_one_corpus(tmp_path, parts, capsys, refused):
    command = ["--input", str(parts), "--output-prefix", str(tmp_path / "all")]
    assert "b.meta.json: no such file" in refused(merge_datasets.main, command)
    assert merge_datasets.main([*command, "--without-metadata"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/all: 2 documents, 6 tokens of 2 corpora\n"
    assert IndexedDataset(tmp_path / "all").tokens.tolist() == [1, 1, 1, 2, 2, 2]


def test_existing_output_needs_a_word(tmp_path, parts, capsys):
    command = ["--input", str(parts / "a"), "--output-prefix", str(tmp_path / "all")]
    assert [merge_datasets.main(command) for _ in range(2)] == [0, 1]
    assert "all.idx: exists; give --overwrite to replace it" in capsys.readouterr().err
    assert merge_datasets.main([*command, "--overwrite"]) == 0
    assert merge_datasets.main(["--input", "/nowhere/c", *command[2:], "--overwrite"]) == 1
    assert "/nowhere/c.bin: no such file" in capsys.readouterr().err
