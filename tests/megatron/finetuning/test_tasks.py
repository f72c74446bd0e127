import pytest

from megatron.finetuning.tasks import GLUE, task_named


def test_the_eight_tasks_and_their_metrics():
    first = {name: task.metrics[0] for name, task in GLUE.items()}
    assert first == {
        "RTE": "accuracy",
        "MRPC": "accuracy",
        "STS-B": "spearman",
        "CoLA": "matthews",
        "SST-2": "accuracy",
        "QNLI": "accuracy",
        "QQP": "accuracy",
        "MNLI": "accuracy",
    }
    assert [name for name, task in GLUE.items() if task.is_regression] == ["STS-B"]
    assert GLUE["MNLI"].dev_sets == ("dev_matched", "dev_mismatched")
    for task in GLUE.values():
        assert task.codes is None or len(task.codes) == len(task.labels)
        assert all("test" not in name for name in task.dev_sets)


@pytest.mark.parametrize("name", ["STS-B", "stsb", "sts-b", "sts_b"])
def test_a_task_by_any_spelling_of_its_name(name):
    assert task_named(name) is GLUE["STS-B"]


def test_another_name_is_a_classification_whose_classes_are_in_the_data():
    task = task_named("my_folder")
    assert task.name == "my_folder"
    assert task.labels is None
    assert not task.is_regression
