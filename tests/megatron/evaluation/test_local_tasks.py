import json

import pytest

from megatron.evaluation.local_tasks import LOCAL_TASKS, pages_of_wikitext, write_task_files
from tests.megatron.evaluation.task_data import WIKITEXT, write_task_data


def test_every_task_has_a_file_that_names_its_data(tmp_path):
    write_task_files(write_task_data(tmp_path / "data"), tmp_path / "tasks")
    for task in LOCAL_TASKS:
        text = (tmp_path / "tasks" / f"{task}.yaml").read_text()
        if task != "local_wikitext":
            described = json.loads(text)
            assert described["task"] == task
            file = described["dataset_kwargs"]["data_files"]["test"]
            assert file.startswith(str(tmp_path / "data"))
    assert "!function lm_eval" in text


def test_wikitext_is_cut_into_pages_and_nothing_is_lost(tmp_path):
    pages = pages_of_wikitext(WIKITEXT)
    assert [page.split("\n")[0] for page in pages] == [" = First Page = ", " = B2 = "]
    assert "".join(pages) == WIKITEXT[WIKITEXT.index(" = First") :]
    write_task_files(write_task_data(tmp_path), tmp_path / "tasks", ["local_wikitext"])
    lines = (tmp_path / "tasks" / "wikitext-2.test.jsonl").read_text().splitlines()
    assert [json.loads(line)["page"] for line in lines] == pages


def test_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data-folder is .*nowhere: no such folder"):
        write_task_files(tmp_path / "nowhere", tmp_path / "tasks")
    data = write_task_data(tmp_path / "data")
    (data / "copa.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"local_copa needs copa.jsonl in it"):
        write_task_files(data, tmp_path / "tasks")
    (data / "wikitext-2.test.txt").write_text("no titles")
    with pytest.raises(ValueError, match="has no page titles"):
        write_task_files(data, tmp_path / "tasks", ["local_wikitext"])
