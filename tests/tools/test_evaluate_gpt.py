"""The command as users run it, without a network, on a little data of each local task."""

import json

import pytest

from megatron.evaluation.local_tasks import VERSION
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import LLAMA, make_gpt, make_tokenizer, save_run
from tests.processes import run_python
from tools.evaluate_gpt import main

LOCAL_METRICS = {
    "local_arc_challenge": {"acc", "acc_norm"},
    "local_arc_easy": {"acc", "acc_norm"},
    "local_boolq": {"acc"},
    "local_copa": {"acc"},
    "local_lambada_openai": {"acc", "perplexity"},
    "local_openbookqa": {"acc", "acc_norm"},
    "local_piqa": {"acc", "acc_norm"},
    "local_wikitext": {"bits_per_byte", "byte_perplexity", "word_perplexity"},
    "local_wsc273": {"acc"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    save_run(folder / "run", make_gpt(LLAMA), make_tokenizer())
    write_task_data(folder / "data")
    return folder


@pytest.fixture
def evaluate(folder, monkeypatch):
    """The command in this process: flags -> the record it wrote."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "cache"))

    def run(*flags):
        output = folder / "results" / "local.json"
        given = ["--checkpoint", folder / "run", "--data-folder", folder / "data"]
        given += ["--device", "cpu", "--output", output, *flags]
        assert main(list(map(str, given))) == 0
        return json.loads(output.read_text())

    return run


def test_all_local_tasks(evaluate, capsys):
    record = evaluate("--tasks", "local", "--log-samples")
    assert {task: set(metrics) for task, metrics in record["tasks"].items()} == LOCAL_METRICS
    assert record["num_items"]["local_wikitext"] == 2
    samples = record["samples"]["local_boolq"]
    asked = "a cat.\nQuestion: is it?\nAnswer:"
    assert [sample["arguments"] for sample in samples] == [[[asked, " no"], [asked, " yes"]]] * 3
    schema = record["samples"]["local_wsc273"][0]["arguments"]
    assert schema == [
        ["the cat ran because the cat", " ran."],
        ["the cat ran because the dog", " ran."],
    ]
    assert "local_piqa" in capsys.readouterr().out


@pytest.mark.full
def test_two_processes_give_the_same_numbers(folder):
    records = []
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    for name, launcher in (("one", ()), ("two", torchrun)):
        output = folder / f"{name}.json"
        run_python(
            *(*launcher, "tools/evaluate_gpt.py", "--checkpoint", folder / "run"),
            *("--data-folder", folder / "data", "--device", "cpu", "--tasks", "local"),
            *("--output", output, "--batch-size", 2),
            # It must not reach for the network.
            HF_HOME=str(folder / "cache"),
            HF_ENDPOINT="http://127.0.0.1:9",
        )
        records.append(json.loads(output.read_text()))
    assert [record["num_processes"] for record in records] == [1, 2]
    for task, metrics in records[0]["tasks"].items():
        assert records[1]["tasks"][task] == pytest.approx(metrics, rel=1e-5)


def test_examples_come_before_each_question(evaluate):
    flags = ("--num-fewshot", "2", "--limit", "2", "--log-samples")
    record = evaluate("--tasks", "local_piqa", *flags)
    assert (record["num_fewshot"], record["num_fewshot_of_tasks"]) == (2, {"local_piqa": 2})
    for sample in record["samples"]["local_piqa"]:
        asked = sample["arguments"][0][0]
        assert asked.count("Question:") == 3
        assert asked.endswith("Answer:")
        assert asked.count(asked.rpartition("Question:")[2]) == 1
    # Results of before, whose examples could hold the question, are not taken for finished.
    assert record["local_tasks_version"] == VERSION


def test_finished_results_are_kept(evaluate, folder, capsys):
    asked = ("--tasks", "local_copa,local_piqa", "--num-fewshot", "0", "--keep-finished")
    first = evaluate(*asked, "--limit", "1")
    again = evaluate(*asked, "--limit", "1")
    assert "local.json was finished before" in capsys.readouterr().out
    assert again == first
    assert evaluate(*asked, "--limit", "2")["num_items"] == {"local_copa": 2, "local_piqa": 2}


def test_list_and_task_files(folder, capsys):
    assert main(["--list", "published_zero_shot"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert (len(rows), rows[12]) == (16, "anli_r1,anli_r2,anli_r3")
    target = folder / "task_files"
    assert main(["--write-task-files", str(target), "--data-folder", str(folder / "data")]) == 0
    assert len(list(target.glob("*.yaml"))) == len(LOCAL_METRICS)


def test_bad_input_is_one_line(folder, tmp_path, refused):
    (tmp_path / "part").mkdir()
    given = {
        "--checkpoint": folder / "run",
        "--tasks": "local_copa",
        "--data-folder": folder / "data",
        "--output": tmp_path / "x.json",
    }
    for changes, message in (
        ({"--tasks": None}, "--tasks is missing"),
        ({"--data-folder": None}, "--data-folder is missing"),
        ({"--tasks": "local_coppa"}, "'local_coppa': no such local task; near it are local_copa"),
        ({"--data-folder": tmp_path / "no"}, "no such folder"),
        ({"--data-folder": tmp_path / "part"}, "local_copa needs copa.jsonl in it"),
        ({"--checkpoint": tmp_path / "no"}, "holds no checkpoint of ours"),
    ):
        flags = [[flag, value] for flag, value in (given | changes).items() if value]
        assert message in refused(main, sum(flags, []))
    assert not (tmp_path / "x.json").exists()
