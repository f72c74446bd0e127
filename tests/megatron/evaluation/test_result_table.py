import pytest

from megatron.evaluation.result_table import format_table, gather


def record(tasks, shots=None):
    metrics = {
        task: {"acc": value, "acc_norm": value, "word_perplexity": value}
        for task, value in tasks.items()
    }
    return {"checkpoint": "run/global_step1", "num_fewshot": shots, "tasks": metrics}


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_tasks_of_several_files_and_average():
    records = [
        ("base", "a", record({"local_piqa": 0.6})),
        ("base", "a", record({"copa": 0.7, "wikitext": 31.25})),
        ("both", "b", record({"piqa": 0.8, "copa": 0.9, "wikitext": 20.0})),
    ]
    rows = rows_of(format_table(gather(records)))
    assert rows[0] == ["model", "average of 2", "piqa", "copa", "wikitext"]
    assert rows[1] == ["base", "65.0", "60.0", "70.0", "31.2"]
    assert rows[2] == ["both", "85.0", "80.0", "90.0", "20.0"]
    assert rows[6] == ["GPT-3 1.3B (paper)", "76.0", "75.1", "77.0", ""]
    assert len(rows) == 11


def test_spread_over_trainings():
    records = [
        ("base", seed, record({"copa": value}))
        for seed, value in (("1", 0.6), ("2", 0.7), ("3", 0.8))
    ]
    assert rows_of(format_table(gather(records)))[1] == ["base", "70.0 ± 10.0", "70.0 ± 10.0"]


def test_average_is_over_the_tasks_of_all_rows():
    records = [("a", "a", record({"copa": 0.5, "rte": 1.0})), ("b", "b", record({"copa": 0.7}))]
    rows = rows_of(format_table(gather(records)))
    assert rows[0][1] == "average of 1"
    assert [row[1] for row in rows[1:3]] == ["50.0", "70.0"]
    assert rows[2][3] == ""


def test_each_number_of_examples_has_its_table():
    records = [("a", "a", record({"copa": 0.5})), ("a", "a", record({"copa": 0.6}, shots=10))]
    table = format_table(gather(records))
    assert table.index("### 0 examples") < table.index("### 10 examples")
    assert "| GPT-3 175B (paper) | 91.0 | 91.0 |" in table
    assert "| GPT-3 175B (paper) | 92.0 | 92.0 |" in table


def test_contradictions_and_missing_metrics():
    twice = [("a", "a", record({"copa": 0.5})), ("a", "a", record({"local_copa": 0.6}))]
    with pytest.raises(ValueError, match="two results of a in a disagree about copa"):
        gather(twice)
    broken = record({}) | {"tasks": {"record": {"em": 0.5}}}
    with pytest.raises(ValueError, match=r"has no f1 for record, only em"):
        gather([("a", "a", broken)])
