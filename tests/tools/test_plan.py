import json
import re
from pathlib import Path

import numpy as np
import pytest

from data_efficiency import DifficultyIndex
from tests.data_efficiency.test_plan import config, length_metric
from tests.json_sections import metric, random_ltd
from tools import plan, study

GLUE = Path(plan.__file__).parents[1] / "examples_deepspeed/data_efficiency/bert/finetune/glue.toml"
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
    assert lines[-3].startswith("warning: the learning rate outruns the curriculum")


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


def test_a_run_file_is_planned_as_a_study_plans_it(tmp_path, capsys):
    text = '[study]\nbase = "base.toml"\n[arms.baseline]\n[arms.small.training]\nlr = 1e-4\n'
    (tmp_path / "study.toml").write_text(text)
    base = '[data]\ndata_path = ["x"]\nseq_length = 64\n[training]\ntrain_tokens = 4096\n'
    (tmp_path / "base.toml").write_text(base)
    assert study.main(["plan", str(tmp_path / "study.toml")]) == 0
    _, _, row, *_ = capsys.readouterr().out.splitlines()
    steps, corpus, layers, flops = row.split(" | ")[4:8]
    flags = ["--config", str(tmp_path / "base.toml"), "--num-samples", "100", "--rows", "2"]
    assert plan.main([*flags, "--lr", "1e-4"]) == 0
    *table, last, _, _ = capsys.readouterr().out.splitlines()
    assert last == (
        f"whole run: {steps} steps, {corpus} corpus tokens, {layers} layer tokens, {flops} FLOPs"
    )
    assert any(line.split()[:3] == ["corpus", "tokens", corpus] for line in table)
    assert any(line.split()[:3] == ["model", "FLOPs", flops] for line in table)


def test_a_shipped_recipe_needs_no_data_to_be_planned(capsys, refused):
    assert (
        plan.main(["--config", "gpt_cl_ltd_300b", "--num-samples", "100000000", "--rows", "2"]) == 0
    )
    assert "whole run: 377,232 steps, 340G corpus tokens" in capsys.readouterr().out
    assert "is of a" not in refused(plan.main, ["--config", "gpt_cl_ltd_300"])
    glue = ["--config", str(GLUE), "--task", "x"]
    assert "nothing can be planned" in refused(plan.main, glue)


def test_what_was_measured_to_pay_is_where_the_plan_says(path, capsys):
    assert plan.main([str(path), *RUN_FLAGS, "--num-samples", "950"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(plan.GUIDE)
    assert (Path(plan.__file__).parents[1] / plan.GUIDE).is_file()
