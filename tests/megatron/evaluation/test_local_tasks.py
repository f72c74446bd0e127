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
    (data / "wikitext-2.test.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"wikitext-2.test.txt is damaged or of another form"):
        write_task_files(data, tmp_path / "tasks", ["local_wikitext"])
    (data / "wikitext-2.test.txt").write_text("no titles")
    with pytest.raises(ValueError, match="has no page titles"):
        write_task_files(data, tmp_path / "tasks", ["local_wikitext"])


CHOICE = "must be a list of two texts or more, none blank"
GOLD = "must be the number of a choice, 0 to 1"
ASKED = {"query": "q", "choices": ["a", "b"], "gold": 0}
SCHEMA = {"context_options": ["a", "b"], "continuation": "c", "gold": 1}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("piqa", ASKED | {"query": None}, "'query' is None: must be a text"),
        ("piqa", ASKED | {"query": 3}, "'query' is 3: must be a text"),
        ("boolq", {"choices": ["a", "b"], "gold": 0}, "'query' is missing: must be a text"),
        ("copa", ASKED | {"choices": None}, f"'choices' is None: {CHOICE}"),
        ("copa", ASKED | {"choices": "ab"}, f"'choices' is 'ab': {CHOICE}"),
        ("copa", ASKED | {"choices": ["a"]}, rf"'choices' is \['a'\]: {CHOICE}"),
        ("arc_easy", ASKED | {"choices": ["a", None]}, rf"'choices' is \['a', None\]: {CHOICE}"),
        ("arc_easy", ASKED | {"choices": ["a", " "]}, rf"'choices' is \['a', ' '\]: {CHOICE}"),
        ("openbookqa", ASKED | {"gold": None}, f"'gold' is None: {GOLD}"),
        ("openbookqa", ASKED | {"gold": 2}, f"'gold' is 2: {GOLD}"),
        ("openbookqa", ASKED | {"gold": -1}, f"'gold' is -1: {GOLD}"),
        ("openbookqa", ASKED | {"gold": "0"}, f"'gold' is '0': {GOLD}"),
        ("openbookqa", ASKED | {"gold": True}, f"'gold' is True: {GOLD}"),
        ("openbookqa", ASKED | {"gold": float("nan")}, f"'gold' is nan: {GOLD}"),
        ("wsc273", SCHEMA | {"continuation": None}, "'continuation' is None: must be a text"),
        ("wsc273", SCHEMA | {"context_options": ["a"]}, rf"'context_options' is .*: {CHOICE}"),
        (
            "lambada_openai",
            {"context": "a", "continuation": 1},
            "'continuation' is 1: must be a text",
        ),
        ("lambada_openai", {"continuation": "a"}, "'context' is missing: must be a text"),
    ],
)
def test_a_bad_row_is_named(tmp_path, task, row, message):
    data = write_task_data(tmp_path / "data")
    file = {"wsc273": "winograd_wsc", "openbookqa": "openbook_qa"}.get(task, task) + ".jsonl"
    with (data / file).open("a") as out:
        out.write("\n" + json.dumps(row) + "\n")
    line = len((data / file).read_text().splitlines())
    with pytest.raises(ValueError, match=rf"{file}:{line}: {message}"):
        write_task_files(data, tmp_path / "tasks", [f"local_{task}"])


def test_an_empty_file_is_refused(tmp_path):
    data = write_task_data(tmp_path / "data")
    (data / "piqa.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"piqa.jsonl has no rows"):
        write_task_files(data, tmp_path / "tasks", ["local_piqa"])
