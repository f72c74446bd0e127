import json
import re

import numpy as np
import pytest

from data_efficiency import DifficultyIndex
from tests.data_efficiency.test_plan import config, length_metric
from tests.json_sections import metric, random_ltd
from tools import plan

MODEL_FLAGS = ["--num-layers", "4", "--hidden-size", "8", "--num-attention-heads", "2"]
RUN_FLAGS = [*MODEL_FLAGS, "--seq-length", "32", "--train-steps", "20"]


@pytest.fixture
def path(tmp_path):
    content = config({"voc": metric(), "seqlen_truncate": length_metric()}, random_ltd())
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path / "config.json"


def test_table_saving_and_warnings(path, capsys):
    flags = [str(path), *RUN_FLAGS, "--num-samples", "950", "--rows", "3", "--lr-decay", "5=steps"]
    assert plan.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", lines[0].strip())[:5] == [
        "step",
        "voc",
        "seqlen_truncate",
        "pool",
        "% of data",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "10", "20"]
    first = lines[1].split()
    assert first[1:3] == ["35", "6"]
    assert lines[4] == ""
    assert lines[5].split() == ["20", "steps", "this", "plan", "baseline", "saved"]
    assert lines[-1].startswith("warning: the learning rate outruns the curriculum")


def test_indexes_from_the_command_line(path, tmp_path, capsys):
    DifficultyIndex.write(
        tmp_path / "voc", np.arange(800), metric="voc", dataset_identity={"name": "x"}
    )
    assert plan.main([str(path), *RUN_FLAGS, "--index", f"voc={tmp_path / 'voc'}"]) == 0
    assert "800" in capsys.readouterr().out
    assert plan.main([str(path), *RUN_FLAGS, "--index", "vocab=x"]) == 1
    assert (
        "must be METRIC=FOLDER with one of the metrics that select samples: voc"
        in capsys.readouterr().err
    )


def test_picture(path, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.png"
    flags = [str(path), *RUN_FLAGS, "--num-samples", "950", "--picture", str(picture)]
    assert plan.main(flags) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr-decay", "5=epochs", "--num-samples", "9"], "AMOUNT=UNIT"),
        (
            ["--num-samples", "950", "--global-batch-size", "8"],
            "train_batch_size is 16 in the JSON",
        ),
        (["--num-samples", "950", "--vocab-size", "0"], "--vocab-size is 0"),
        ([], "nowhere"),
    ],
)
def test_bad_input_is_one_line(path, refused, flags, message):
    assert message in refused(plan.main, [path, *RUN_FLAGS, *flags])
