"""A corpus without validation documents trains, and says that nothing is validated."""

import json

import numpy as np
import pytest

import pretrain_bert
import pretrain_gpt
from megatron.data.indexed_dataset import IndexedDatasetWriter
from tests.end_to_end.bert_runs import write_sentences
from tests.end_to_end.tiny_runs import training_flags


def write_documents(prefix, num_documents):
    with IndexedDatasetWriter(str(prefix), np.dtype("uint16")) as writer:
        writer.add_documents(
            np.arange(num_documents * 400).astype(np.uint16) % 390,
            np.full(num_documents, 400, np.int32),
        )


def train(script, data_path, folder, **flags):
    arguments = training_flags(
        folder, data_path=None, tokenizer_file=None, save=folder / "run", train_iters=3, **flags
    )
    assert script.main(["--data-path", *map(str, data_path), *arguments]) == 0
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("sizes", "split"),
    [
        pytest.param([40], "100,0,0", id="all for training"),
        pytest.param([40], "1", id="one number"),
        pytest.param([1], "969,30,1", id="one document"),
        pytest.param([12, 12], "969,30,1", id="twelve documents in a blend"),
    ],
)
@pytest.mark.parametrize("script", [pretrain_gpt, pretrain_bert])
def test_trains_without_validation(script, sizes, split, tmp_path, capsys, caplog):
    data_path = []
    for number, size in enumerate(sizes):
        prefix = tmp_path / f"corpus{number}"
        if script is pretrain_gpt:
            write_documents(prefix, size)
        else:
            write_sentences(prefix, num_documents=size)
        data_path += [0.5, prefix] if len(sizes) > 1 else [prefix]
    log = train(script, data_path, tmp_path, split=split)
    assert {line["kind"] for line in log} == {"start", "train", "end"}
    assert log[-1]["step"] == 3
    assert " 0 validation samples" in capsys.readouterr().out
    told = [record.message for record in caplog.records if "no validation on" in record.message]
    assert len(told) == len(sizes)
    assert all(f"--split (now {split})" in line for line in told)


def test_a_blend_is_validated_on_the_parts_that_can_be(tmp_path, capsys, caplog):
    write_documents(tmp_path / "large", 60)
    write_documents(tmp_path / "small", 12)
    data_path = [0.5, tmp_path / "large", 0.5, tmp_path / "small"]
    log = train(pretrain_gpt, data_path, tmp_path, split="969,30,1")
    assert [line["step"] for line in log if line["kind"] == "valid"] == [3]
    assert " 24 validation samples" in capsys.readouterr().out
    assert f"no validation on {tmp_path / 'small'}" in caplog.text


@pytest.mark.parametrize("split", ["0,100,0", "0,0,1"])
def test_an_empty_training_split_is_an_error(split, tmp_path, capsys):
    write_documents(tmp_path / "corpus", 20)
    arguments = training_flags(tmp_path, data_path=tmp_path / "corpus", tokenizer_file=None)
    assert pretrain_gpt.main([*arguments, "--split", split]) == 1
    assert "error: the train split of" in capsys.readouterr().err
