"""Evaluations of all checkpoints of a folder: the commands, a real run, what is done again."""

import json
import shlex
import sys

import pytest

from data_efficiency import files
from megatron.study import start_in_slot
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import GPT2, make_gpt, make_tokenizer, save_run
from tools import evaluate_gpt, evaluate_runs, gather_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models of one step, the second trained with two seeds; data of the local tasks."""
    folder = tmp_path_factory.mktemp("a folder")
    for number, name in enumerate(("one", "two/seed_1", "two/seed_2")):
        save_run(folder / "runs" / name, make_gpt(GPT2, number), make_tokenizer(), step=5)
    write_task_data(folder / "data")
    return folder


@pytest.fixture
def evaluate(folder, monkeypatch):
    """A function of flags -> the exit code, in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HOME", str(folder / "cache"))
    places = ["--checkpoints", "runs", "--data-folder", "data"]
    return lambda *flags: evaluate_runs.main([*places, *flags])


def printed(capsys):
    """The parsed flags of the lines that evaluate, and the line of the table."""
    lines = capsys.readouterr().out.splitlines()
    words = [shlex.split(line) for line in lines if "evaluate_gpt.py" in line]
    places = [next(i for i, word in enumerate(w) if "evaluate_gpt.py" in word) for w in words]
    parsed = [
        evaluate_gpt.parse_arguments(w[place + 1 :]) for w, place in zip(words, places, strict=True)
    ]
    return parsed, [line for line in lines if "gather_results.py" in line]


def test_a_dry_run_prints_what_would_run(evaluate, folder, capsys):
    flags = ["--output", "results", "--dry-run", "--limit", "3", "--dtype", "bfloat16"]
    assert evaluate(*flags) == 0
    parsed, (table,) = printed(capsys)
    assert len(parsed) == 3 * (7 + 6)
    assert {(one.limit, one.dtype, one.keep_finished) for one in parsed} == {(3, "bfloat16", True)}
    assert [one.num_fewshot for one in parsed[:13]] == [0] * 7 + [10] * 6
    command, target = table.split(" >")
    words = shlex.split(command)
    wanted = gather_results.parse_arguments(words[words.index("--run") :])
    assert wanted.run == ["one=results/one", "two=results/two/seed_1", "two=results/two/seed_2"]
    assert target == "results/table.md"
    assert evaluate(*flags, "--num-processes", "2") == 0
    assert "-m torch.distributed.run --standalone --nproc_per_node=2" in capsys.readouterr().out
    assert not (folder / "results").exists()


@pytest.mark.full
def test_it_evaluates_and_does_only_what_is_missing(evaluate, folder, capfd):
    flags = ["--output", "done", "--zero-shot", "local_copa local_piqa", "--few-shot", "none"]
    assert evaluate(*flags, "--device", "cpu") == 0
    said = capfd.readouterr().out
    assert "[6/6] two/seed_2, 0 examples: local_piqa (" in said
    table = (folder / "done" / "table.md").read_text()
    assert table in said
    assert "| model | average of 2 | piqa | copa |" in table
    assert "| two | " in table
    assert " ± " in table
    files = sorted((folder / "done").glob("*/**/*shot/*.json"))
    assert len(files) == 6
    (folder / "done/one/0shot/local_copa.json").unlink()
    save_run(folder / "runs/two/seed_1", make_gpt(GPT2, 7), make_tokenizer(), step=6)
    before = {file: file.stat().st_mtime_ns for file in files[1:]}
    assert evaluate(*flags, "--device", "cpu") == 0
    assert capfd.readouterr().out.count("was finished before") == 3
    changed = {file for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert changed == {file for file in files if "seed_1" in str(file)}


def test_the_table_is_of_what_is_finished(evaluate, folder, capsys, refused):
    more = ["--zero-shot", "local_copa", "--few-shot", "none", "--table"]
    places = ["--checkpoints", "runs", "--data-folder", "data", "--output", "some"]
    assert "some: no evaluation in it is finished yet" in refused(
        evaluate_runs.main, [*places, *more]
    )
    record = {"format": "evaluation", "version": 1, "checkpoint": "c", "num_fewshot": 0}
    file = folder / "some/one/0shot/local_copa.json"
    files.write_file(file, json.dumps(record | {"tasks": {"local_copa": {"acc": 0.5}}}))
    assert evaluate("--output", "some", *more) == 0
    assert "| one | 50.0 | 50.0 |" in capsys.readouterr().out


def test_one_that_fails_does_not_stop_the_others(evaluate, folder, capfd):
    flags = ["--output", "failed", "--zero-shot", "local_no local_copa", "--few-shot", "none"]
    assert evaluate(*flags, "--checkpoints", "runs/one/global_step5", "--device", "cpu") == 1
    said = capfd.readouterr().err
    assert "error: --tasks names 'local_no'" in said
    assert said.splitlines()[-1].startswith("error: 1 of 2 did not end well")
    assert (folder / "failed/global_step5/0shot/local_copa.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoints", "data"], "--checkpoints is data: no run and no checkpoint in it"),
        (["--zero-shot", "none", "--few-shot", "none"], "are none: nothing to evaluate"),
        (["--parallel", "2", "--num-processes", "2"], "--parallel is 2: must be 1 with --num-proc"),
    ],
)
def test_bad_flags_are_one_line(folder, monkeypatch, refused, flags, message):
    monkeypatch.chdir(folder)
    places = ["--checkpoints", "runs", "--data-folder", "data", "--output", "r"]
    assert message in refused(evaluate_runs.main, [*places, *flags])


def fake(folder, monkeypatch, seconds):
    """Evaluations that take some seconds and write an empty file."""

    def command_of(one, *_):
        code = f"import sys, time; time.sleep({seconds}); open(sys.argv[1], 'w').write('x')"
        return [sys.executable, "-c", code, str(one.output)]

    monkeypatch.setattr(evaluate_runs, "command_of", command_of)
    monkeypatch.setattr(evaluate_runs, "write_table", lambda *_, **__: print("the table"))
    monkeypatch.chdir(folder)


def test_programs_share_the_work_and_the_last_one_has_the_table(folder, monkeypatch, capsys):
    fake(folder, monkeypatch, 0.3)
    flags = ["--checkpoints", "runs", "--zero-shot", "a b", "--few-shot", "none", "--output", "two"]
    with files.file_lock(folder / "two/two/seed_2/0shot/b.lock"):
        assert evaluate_runs.main([*flags, "--parallel", "2"]) == 0
    said = capsys.readouterr().out
    assert "another program has it: two/seed_2, 0 examples: b" in said
    assert "1 are in the hands of other programs" in said
    assert "the table\n" not in said
    assert evaluate_runs.main(flags) == 0
    assert "the table" in capsys.readouterr().out
    assert len([*(folder / "two").rglob("*shot/[ab].json")]) == 6


def test_a_stop_ends_what_runs(folder, monkeypatch, capsys):
    fake(folder, monkeypatch, 60)
    started = []

    def start(*arguments):
        started.append(start_in_slot(*arguments))
        return started[-1]

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_runs, "start_in_slot", start)
    monkeypatch.setattr(evaluate_runs.time, "sleep", interrupted)
    flags = ["--checkpoints", "runs", "--zero-shot", "a b", "--few-shot", "none", "--output", "cut"]
    assert evaluate_runs.main([*flags, "--parallel", "2"]) == 130
    assert [process.returncode for process in started] == [-15, -15]
    assert "nothing half-written is left" in capsys.readouterr().err
