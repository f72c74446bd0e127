import json

import pytest

from megatron.reporting import RunLogger
from tools.report import main, named_folders


def write_run(folder, losses):
    start = {"num_parameters": 1000, "sequence_length": 64, "train_samples_in_dataset": 10}
    with RunLogger(folder, {"kind": "start", **start}) as logger:
        for step, loss in enumerate(losses, start=1):
            logger.write(
                {
                    "kind": "valid",
                    "step": step,
                    "loss": loss,
                    "perplexity": 2.0**loss,
                    "corpus_tokens": 64 * step,
                    "effective_tokens": 64 * step,
                    "flops": 100 * step,
                    "seconds": 1.0 * step,
                }
            )
        logger.write({"kind": "end", "step": len(losses), "reason": "token budget"})
    return folder


def test_table_numbers_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    first = write_run(tmp_path / "first", [6.0, 5.0])
    second = write_run(tmp_path / "second", [5.5, 4.5])
    output = tmp_path / "new" / "report"
    arguments = ["--run", f"baseline={first}", "--run", f"other={second}", "--output", str(output)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "other" in printed
    assert "0.900x" in printed
    report = json.loads((output / "report.json").read_text())
    assert report["runs"]["other"]["to_reach_baseline_loss"]["seconds"] == 1.5
    assert sorted(file.name for file in output.iterdir()) == ["report.json", "report.png"]


def test_picture_can_be_left_out(tmp_path):
    run = write_run(tmp_path / "run", [5.0])
    arguments = ["--run", f"a={run}", "--baseline", "a", "--output", str(tmp_path), "--no-picture"]
    assert main(arguments) == 0
    assert (tmp_path / "report.json").exists()
    assert not (tmp_path / "report.png").exists()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["nothing"], "--run is 'nothing': write NAME=FOLDER"),
        (["=folder"], "write NAME=FOLDER"),
        (["a=x", "a=y"], "names 'a' twice"),
    ],
)
def test_ill_formed_run_is_refused(runs, message):
    with pytest.raises(ValueError, match=message):
        named_folders(runs)


def test_error_is_one_line_and_leaves_nothing(tmp_path, refused):
    refused(main, ["--run", f"baseline={tmp_path}/gone", "--output", tmp_path / "report"])
    assert not (tmp_path / "report").exists()
