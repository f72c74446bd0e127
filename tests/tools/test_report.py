import json

import pytest

from tests.megatron.study.made_up_runs import four_runs, write_made_up_run
from tools.report import main, named_folders


def test_report_of_four_runs(tmp_path, capsys):
    output = tmp_path / "new" / "report"
    runs = [f"--run={name}={folder}" for name, folder in four_runs(tmp_path).items()]
    assert main([*runs, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (output / "report.md").read_text().strip()
    assert "3.45M parameters, 1.28M tokens of training data" in printed
    assert "proves nothing" in printed
    report = json.loads((output / "report.json").read_text())
    ratios = {one["arm"]: one["cost_ratios"] for one in report["comparisons"]}
    assert ratios["curriculum"]["corpus_tokens"]["mean"] == pytest.approx(1, rel=0.01)
    assert ratios["random_ltd"]["corpus_tokens"]["mean"] > 1.1
    names = ["report.json", "report.md", "report.png", "results.jsonl"]
    assert sorted(file.name for file in output.iterdir()) == names
    assert (output / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_several_seeds_give_intervals(tmp_path, capsys):
    for arm, gain in (("baseline", 0.0), ("better", 0.5)):
        for seed in (1, 2, 3):
            write_made_up_run(tmp_path / arm / f"seed{seed}", gain=gain, seed=seed)
    runs = [f"--run={arm}={tmp_path / arm}" for arm in ("baseline", "better")]
    assert main([*runs, "--output", str(tmp_path / "out"), "--no-picture"]) == 0
    assert "**better**" in capsys.readouterr().out
    assert not (tmp_path / "out" / "report.png").exists()


def test_a_run_that_was_killed_is_listed_and_not_compared(tmp_path, capsys, refused):
    whole = write_made_up_run(tmp_path / "whole")
    part = write_made_up_run(tmp_path / "part", budget=600_000, finished=False)
    runs = [f"--run=baseline={whole}", f"--run=cut={part}", "--output", str(tmp_path / "out")]
    assert main([*runs, "--no-picture"]) == 0
    printed = capsys.readouterr().out
    assert "| cut |" not in printed
    assert "- cut, seed 1, budget 1: unfinished (its log has no end" in printed
    assert "Arm cut has no finished run." in printed
    message = refused(main, ["--run", f"baseline={part}", "--output", tmp_path / "none"])
    assert "no run has come to its end" in message


def test_runs_of_two_kinds_are_refused(tmp_path, refused):
    gpt, bert = (
        write_made_up_run(tmp_path / "gpt"),
        write_made_up_run(tmp_path / "bert", sentence_loss=0.6),
    )
    runs = [f"--run=baseline={gpt}", f"--run=other={bert}"]
    message = refused(main, [*runs, "--output", tmp_path / "out"])
    assert "validation loss and validation masked_lm loss: compare runs of one kind" in message


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
    refused(main, ["--run", f"a={tmp_path}/gone", "--output", tmp_path / "report"])
    assert not (tmp_path / "report").exists()
