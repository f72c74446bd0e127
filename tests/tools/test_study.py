"""Studies through the command line, with real processes of a toy trainer whose truth is known."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron.study import jobs_of, read_study
from tools.study import main, parse_arguments

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "megatron" / "study" / "toy_program.py"
BASE = """
[model]
num_layers = 4
[data]
data_path = ["{output}/made.txt"]
seq_length = 16
[training]
train_tokens = 1_000_000
lr = 1e-3
adam_eps = 0.001
"""
STUDY = """
[study]
title = "Toy"
base = "base.toml"
program = "{program}"
output = "{output}"
seeds = [1, 2, 3]
budgets = [0.25, 0.5, 1.0]
{more}

[[prepare]]
name = "text"
makes = "{{output}}/made.txt"
command = ["{maker}", "{{output}}"]

[arms.baseline]
[arms.renamed.training]
lr = 1e-3
[arms.better.training]
adam_beta2 = 0.5
"""
MAKER = "import sys; open(sys.argv[1] + '/made.txt', 'a').write('made ')"


@pytest.fixture
def study(tmp_path):
    """A study file of 3 arms and 3 seeds, 15 runs of a tenth of a second."""

    def write(more="", base=BASE):
        maker = tmp_path / "maker.py"
        maker.write_text(MAKER)
        (tmp_path / "base.toml").write_text(base)
        path = tmp_path / "study.toml"
        places = {"program": TOY, "output": tmp_path / "runs", "maker": maker, "more": more}
        path.write_text(STUDY.format(**places))
        return path

    return write


def start(path, *flags):
    """The command in a group of its own; what it prints goes to a file beside the study."""
    number = len([*path.parent.glob("printed*")])
    with (path.parent / f"printed{number}").open("w") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "study.py"), "run", str(path), *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def verdicts(path):
    report = json.loads((path.parent / "runs" / "report.json").read_text())
    return {one["arm"]: one["verdict"] for one in report["comparisons"]}


def test_a_study_finds_what_is_true_and_is_done_once(study, capsys):
    path = study()
    assert main(["run", str(path), "--parallel", "2"]) == 0
    printed = capsys.readouterr().out
    assert "15 finished" in printed
    assert "left" in printed
    assert verdicts(path) == {"renamed": "undecided", "better": "better"}
    report = json.loads((path.parent / "runs" / "report.json").read_text())
    assert report["changes"]["renamed"] == []
    assert report["changes"]["better"] == ["`training.adam_beta2`: 0.999 → 0.5"]
    saving = report["comparisons"][-1]["saving_factors"]["corpus_tokens"]
    assert saving["low"] > 1.2
    logs = {log: log.stat().st_mtime_ns for log in path.parent.rglob("log.jsonl")}
    assert main(["run", str(path)]) == 0
    assert {log: log.stat().st_mtime_ns for log in logs} == logs
    assert (path.parent / "runs" / "made.txt").read_text() == "made "


def test_kept_results_go_on_on_another_machine(study, capsys):
    """Where no run and no corpus is: the same table at once, and anew where the corpus is made in another way."""
    path = study('results = "kept"')
    path.write_text(path.read_text().replace("seeds = [1, 2, 3]", "seeds = [1]"))
    assert main(["run", str(path), "--parallel", "2"]) == 0
    tables = [
        [line for line in page.read_text().splitlines() if line.startswith("|")]
        for page in (path.parent / "runs" / "report.md", path.parent / "kept" / "report.md")
    ]
    shutil.rmtree(path.parent / "runs")
    assert main(["run", str(path)]) == 0
    assert not [*path.parent.rglob("log.jsonl"), *path.parent.rglob("made.txt")]
    again = (path.parent / "runs" / "report.md").read_text()
    tables.append([line for line in again.splitlines() if line.startswith("|")])
    assert tables[0] == tables[1] == tables[2] != []
    path.write_text(path.read_text().replace('"{output}"]', '"{output}", "more"]'))
    capsys.readouterr()
    assert main(["status", str(path)]) == 0
    assert capsys.readouterr().out.count("waiting") == 5


def test_a_study_waits_for_its_pilot_and_takes_what_was_best_there(study, capsys, refused):
    pilot = study('results = "pilot_kept"')
    text = pilot.read_text().replace("seeds = [1, 2, 3]", "seeds = [7]").replace("0.25, 0.5, ", "")
    text = (
        text.replace("adam_beta2 = 0.5", "lr = 1e-3") + "[each.training]\nadam_beta2 = [0.5, 0.6]\n"
    )
    pilot = pilot.rename(pilot.with_name("pilot.toml"))
    pilot.write_text(text.replace(str(pilot.parent / "runs"), str(pilot.parent / "pilot_runs")))
    path = study('pilot = "pilot.toml"')
    path.write_text(path.read_text().replace("adam_beta2 = 0.5", "adam_beta2 = 0.9"))
    assert "its pilot, pilot.toml, has 6 runs left: run it first" in refused(main, ["run", path])
    assert not (path.parent / "runs").exists()
    assert main(["plan", str(path)]) == 0
    assert "The pilot, pilot.toml, has 6 runs left" in capsys.readouterr().out
    assert main(["run", str(pilot), "--parallel", "2"]) == 0
    assert main(["run", str(path), "--parallel", "2", "--seeds", "1"]) == 0
    jobs = jobs_of(read_study(path, seeds=[1]))
    assert {job.config.training.adam_beta2 for job in jobs} == {0.5}
    assert {job.state for job in jobs} == {"finished"}


def test_an_edited_arm_is_what_runs_and_the_earlier_run_is_kept(study, capsys):
    path = study()
    assert main(["run", str(path), "--parallel", "2"]) == 0
    path.write_text(path.read_text().replace("adam_beta2 = 0.5", "adam_beta2 = 0.6"))
    path.write_text(
        path.read_text().replace(
            "[arms.renamed.training]\nlr = 1e-3", "[arms.renamed.training]\nlr = 2e-3"
        )
    )
    assert main(["run", str(path), "--parallel", "2"]) == 0
    assert "its settings have changed" in capsys.readouterr().out
    replaced = path.parent / "runs" / "replaced"
    assert len([*replaced.iterdir()]) == 6
    report = json.loads((path.parent / "runs" / "report.json").read_text())
    assert report["changes"]["renamed"] == ["`training.lr`: 0.001 → 0.002"]


def test_another_corpus_is_trained_on_anew(study, capsys):
    path = study("", BASE)
    path.write_text(path.read_text().replace("seeds = [1, 2, 3]", "seeds = [1]"))
    assert main(["run", str(path), "--parallel", "2"]) == 0
    path.write_text(path.read_text().replace('"{output}"]', '"{output}", "more"]'))
    capsys.readouterr()
    assert main(["status", str(path)]) == 0
    assert capsys.readouterr().out.count("waiting") == 5
    assert main(["run", str(path), "--parallel", "2"]) == 0
    assert len([*(path.parent / "runs" / "replaced").iterdir()]) == 5


def test_a_failed_run_is_named_and_listed_and_the_others_go_on(study, capsys):
    path = study()
    path.write_text(
        path.read_text().replace(
            "[arms.renamed.training]\nlr = 1e-3", "[arms.renamed.training]\nlr = 666"
        )
    )
    assert main(["run", str(path), "--parallel", "2"]) == 1
    printed = capsys.readouterr().out
    assert "renamed, seed 1 failed (exit code 1): error: this rate cannot be right" in printed
    assert "- renamed, seed 2, budget 1: failed" in printed
    assert verdicts(path) == {"better": "better"}


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.full), signal.SIGKILL],
    ids=["term", "kill"],
)
def test_it_goes_on_after_any_end_to_the_same_report(number, study):
    path = study(base=BASE.replace("adam_eps = 0.001", "adam_eps = 0.02"))
    folder = path.parent / "runs"
    moments = random.Random(int(number))
    for _ in range(4):
        running = start(path, "--parallel", "2")
        time.sleep(2 + 3 * moments.random())
        os.killpg(running.pid, number)
        code = running.wait(timeout=60)
        # Before it has begun to work a signal just ends it.
        assert code in (0, 75, -number, 128 + number)
    assert start(path, "--parallel", "2").wait(timeout=200) == 0
    found = (folder / "results.jsonl").read_text()
    other = path.parent / "unbroken"
    assert main(["run", str(path), "--output", str(other), "--parallel", "2"]) == 0
    unbroken = (other / "results.jsonl").read_text().replace(str(other), str(folder))
    assert values(found) == values(unbroken)


def values(results):
    records = [json.loads(line) for line in results.splitlines()]
    return [(one["arm"], one["seed"], one["budget"], one["value"], one["costs"]) for one in records]


def test_two_workers_share_the_runs(study):
    path = study(base=BASE.replace("adam_eps = 0.001", "adam_eps = 0.02"))
    both = [start(path), start(path)]
    assert [one.wait(timeout=200) for one in both] == [0, 0]
    printed = [path.with_name(f"printed{number}").read_text() for number in (0, 1)]
    folders = [job.folder for job in jobs_of(read_study(path))]
    assert all(json.loads((f / "job.json").read_text())["attempts"] == 1 for f in folders)
    assert all("left" in text for text in printed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("seeds = [1, 2, 3]", "seds = [1]"),
            "seds is not a known key; the nearest known key is 'seeds'",
        ),
        (("seeds = [1, 2, 3]", "seeds = [1, 1]"), "seeds of arm 'baseline' is [1, 1]"),
        (("seeds = [1, 2, 3]", 'seeds = "1"'), "seeds is '1': must be a list of whole numbers"),
        (("[arms.baseline]", "[arms.other]"), "baseline is 'baseline': must be one of the arms"),
        (("lr = 1e-3", "rl = 1e-3"), "[arms.renamed]"),
        (("budgets = [0.25, 0.5, 1.0]", "budgets = [0, 1]"), "must be positive"),
        (("[arms.baseline]", "[arms.baseline]\nlike = ['baseline']"), "is like 'baseline'"),
    ],
)
def test_a_study_that_cannot_be_is_one_line(change, message, study, refused):
    path = study()
    path.write_text(path.read_text().replace(*change, 1))
    assert message in refused(main, ["status", path])


def test_flags_of_sbatch_begin_with_dashes():
    """Argparse took a single one for a flag of its own: expected one argument."""
    for words in (["--sbatch", "--gpus=1"], ["--sbatch=--gpus=1"]):
        assert parse_arguments(["run", "study.toml", "--slurm", *words]).sbatch == "--gpus=1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flops-per-second", "1e9", "--parallel", "0"], "--parallel is 0: must be at least 1"),
        (["--flops-per-second", "-1"], "--flops-per-second is -1.0: must be at least 0"),
        (["--difference", "nan"], "--difference is nan: must be a finite number"),
        (["--difference", "0"], "--difference is 0: give a difference other than zero"),
    ],
)
def test_a_number_that_cannot_be_is_one_line(words, message, study, refused):
    assert message in refused(main, ["plan", study(), *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--set", "corpus"], "write NAME=VALUE"), (["--seeds", "1,x"], "no list such as 1,2,3")],
)
def test_ill_formed_flags_are_told(words, message, study, capsys):
    with pytest.raises(SystemExit):
        main(["plan", str(study()), *words])
    assert message in capsys.readouterr().err


def test_plan_and_status_say_what_is_left(study, capsys):
    path = study()
    assert main(["plan", str(path), "--flops-per-second", "1e9"]) == 0
    printed = capsys.readouterr().out
    assert "15 runs are left" in printed
    assert "| baseline | 0.25 | 3 | 3 |" in printed
    assert main(["status", str(path)]) == 0
    assert capsys.readouterr().out.count("waiting") == 15
    main(["run", str(path), "--parallel", "2"])
    capsys.readouterr()
    assert main(["plan", str(path), "--difference", "0.1"]) == 0
    assert "better, budget 1: spread of the paired difference 0.0000" in capsys.readouterr().out
