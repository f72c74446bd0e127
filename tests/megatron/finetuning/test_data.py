import gzip
import math

import datasets
import numpy as np
import pytest

from megatron.finetuning.data import HUB, read_task
from megatron.finetuning.tasks import GLUE, task_named
from tests.megatron.finetuning.bert_task_data import write_lines, write_sentiment

HEADERS = {
    "MRPC": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "QNLI": "index\tquestion\tsentence\tlabel",
    "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "RTE": "index\tsentence1\tsentence2\tlabel",
    "MNLI": "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label",
}
LABELS = {
    "MRPC": (("0", "1"), [0, 1]),
    "STS-B": (("3.8", "0.25"), [3.8, 0.25]),
    "QNLI": (("not_entailment", "entailment"), [1, 0]),
    "QQP": (("1", "0"), [1, 0]),
    "RTE": (("entailment", "not_entailment"), [0, 1]),
    "MNLI": (("contradiction", "neutral"), [2, 1]),
}


@pytest.mark.parametrize("name", HEADERS)
def test_official_files(tmp_path, name):
    columns = HEADERS[name].split("\t")
    texts, task = GLUE[name].texts, GLUE[name]
    values, expected = LABELS[name]
    lines = [HEADERS[name]]
    for i, value in enumerate(values):
        cells = dict.fromkeys(columns, "-") | {texts[0]: f'a "{i}', texts[1]: f"b {i}"}
        lines.append("\t".join((cells | {task.label: value}).values()))
    for part in ("train", *task.dev_sets):
        path = tmp_path / name / f"{part}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    found_task, sets = read_task(tmp_path, name.lower())
    assert found_task == task
    assert list(sets) == ["train", *task.dev_sets]
    for examples in sets.values():
        assert (examples.first, examples.second) == (['a "0', 'a "1'], ["b 0", "b 1"])
        assert examples.labels.tolist() == expected


def test_cola_has_no_header_and_one_text(tmp_path):
    (tmp_path / "CoLA").mkdir()
    for part in ("train", "dev"):
        (tmp_path / "CoLA" / f"{part}.tsv").write_text("gj04\t1\t\tIt is.\nks08\t0\t*\tIt are.\n")
    _, sets = read_task(tmp_path, "cola")
    assert sets["dev"].first == ["It is.", "It are."]
    assert sets["dev"].second is None
    assert sets["dev"].labels.tolist() == [1, 0]


# Columns of the data set on the hub, where labels are numbers of classes.
ON_THE_HUB = {
    "cola": (("sentence",), 1, "acceptable"),
    "sst2": (("sentence",), 0, "negative"),
    "mrpc": (("sentence1", "sentence2"), 1, "equivalent"),
    "qqp": (("question1", "question2"), 1, "duplicate"),
    "stsb": (("sentence1", "sentence2"), 3.8, None),
    "mnli": (("premise", "hypothesis"), 2, "contradiction"),
    "qnli": (("question", "sentence"), 0, "entailment"),
    "rte": (("sentence1", "sentence2"), 1, "not_entailment"),
}


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_the_datasets_library(monkeypatch, name):
    columns, label, meaning = ON_THE_HUB[name]
    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        texts = {column: [f"{column} {split}", "other"] for column in columns}
        labels = [label, label - 1 if label else 1]
        return datasets.Dataset.from_dict({**texts, "label": labels, "idx": [0, 1]})

    # The hub itself cannot be asked in a test.
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task, sets = read_task(HUB, name)
    dev = ["validation_matched", "validation_mismatched"] if name == "mnli" else ["validation"]
    assert asked == [("nyu-mll/glue", name, split) for split in ("train", *dev)]
    for examples, split in zip(sets.values(), ("train", *dev), strict=True):
        texts = [examples.first] if examples.second is None else [examples.first, examples.second]
        assert texts == [[f"{column} {split}", "other"] for column in columns]
        found = examples.labels[0]
        assert (found if task.labels is None else task.labels[found]) == (meaning or label)


def test_a_classification_of_your_own(tmp_path):
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": "zyx"[i % 3]} for i in range(6)]
    write_lines(tmp_path / "mine" / "train.jsonl", rows)
    write_lines(tmp_path / "mine" / "dev.jsonl", rows[:1])
    packed = tmp_path / "mine" / "train.jsonl"
    with gzip.open(f"{packed}.gz", "wb") as file:
        file.write(packed.read_bytes())
    packed.unlink()
    task, sets = read_task(tmp_path, "mine")
    assert task.labels == ("x", "y", "z")
    assert sets["train"].labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert sets["dev"].first_rows(1).second == ["h"]
    assert sets["train"].first_rows(2).labels.dtype == np.int64


MUST_BE_TEXT = "must be a text"
MUST_BE_CLASS = "must be the name or the number of a class"
MUST_BE_SCORE = "must be a number from 0 to 5"
PAIR = {"sentence1": "a", "sentence2": "b"}


@pytest.mark.parametrize("part", ["train", "dev"])
@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sst-2", {"sentence": "a", "label": "good"}, "label 'good' is none of negative, positive"),
        ("sst-2", {"sentence": "a", "label": -1}, "test files, whose labels are hidden"),
        ("sst-2", {"label": 1}, "no 'sentence'; the row has label"),
        ("sst-2", {"sentence": "a"}, "no 'label'; the row has sentence"),
        ("sst-2", {"sentence": None, "label": 1}, f"'sentence' is None: {MUST_BE_TEXT}"),
        ("mine", {"sentence": None, "label": "x"}, f"'sentence' is None: {MUST_BE_TEXT}"),
        ("mine", {"sentence": 7, "label": "x"}, f"'sentence' is 7: {MUST_BE_TEXT}"),
        ("mine", {"sentence": math.nan, "label": "x"}, f"'sentence' is nan: {MUST_BE_TEXT}"),
        ("mine", {"sentence": True, "label": "x"}, f"'sentence' is True: {MUST_BE_TEXT}"),
        ("mine", {"sentence": ["a"], "label": "x"}, rf"'sentence' is \['a'\]: {MUST_BE_TEXT}"),
        ("mine", {"text": "a", "label": "x"}, "no 'sentence'; the row has text, label"),
        ("mine", {"sentence": "a", "label": None}, f"'label' is None: {MUST_BE_CLASS}"),
        ("mine", {"sentence": "a", "label": ["text"]}, rf"'label' is \['text'\]: {MUST_BE_CLASS}"),
        ("mine", {"sentence": "a", "label": {"x": 1}}, rf"'label' is .*: {MUST_BE_CLASS}"),
        ("mine", {"sentence": "a", "label": math.nan}, f"'label' is nan: {MUST_BE_CLASS}"),
        ("mine", {"sentence": "a", "label": 0.5}, f"'label' is 0.5: {MUST_BE_CLASS}"),
        ("mine", {"sentence": "a", "label": " "}, f"'label' is ' ': {MUST_BE_CLASS}"),
        ("rte", PAIR | {"label": 2}, "label '2' is none of entailment, not_entailment"),
        ("rte", PAIR | {"sentence2": None, "label": 1}, f"'sentence2' is None: {MUST_BE_TEXT}"),
        ("sts-b", PAIR | {"score": "high"}, f"'score' is 'high': {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": None}, f"'score' is None: {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": [1]}, rf"'score' is \[1\]: {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": True}, f"'score' is True: {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": math.nan}, f"'score' is nan: {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": math.inf}, f"'score' is inf: {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": 5.5}, f"'score' is 5.5: {MUST_BE_SCORE}"),
        ("sts-b", PAIR | {"score": -1}, f"'score' is -1: {MUST_BE_SCORE}"),
    ],
)
def test_a_bad_row_is_named(tmp_path, part, name, row, message):
    labels = {"score": 1} if name == "sts-b" else {"label": "x"}
    good = {"sentence": "a"} if name in ("mine", "sst-2") else PAIR
    rows = [good | labels, good | dict.fromkeys(labels, 0)]
    if name in ("sst-2", "rte"):
        rows[0]["label"] = 1
    for each in ("train", "dev"):
        write_lines(tmp_path / name / f"{each}.jsonl", [*rows, row] if each == part else rows)
    with pytest.raises(ValueError, match=rf"{name}/{part}\.jsonl:3: .*{message}"):
        read_task(tmp_path, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "train has no examples"),
        (
            '{"words": "a", "label": 1}\n{"label": 2}',
            r":1: the columns words, label hold no texts that are known",
        ),
        ('{"text": "a", "label": "x"}\n' * 3, r":1: 'x' is the label of this and of every other"),
        ('{"text": "a", "label": 1}\n{"text"', r":2: not valid JSON"),
        ('{"text": "a", "label": 1}\n\n[1]', r":3: a JSON object was expected, not list"),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", r":1: 'label' is inf: must be the name"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "mine").mkdir()
    for part in ("train", "dev"):
        (tmp_path / "mine" / f"{part}.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_task(tmp_path, "mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"train.tsv has no column \['sentence', 'label'\]"),
        (b"text\tlabel\n", r"train.tsv has no column \['sentence'\]"),
        (b"sentence\tlabel\na\t0\n\xff\t1\n", r"train.tsv:3: not UTF-8 \(byte 0\)"),
        (b"sentence\tlabel\na\t0\nb\t\n", r"train.tsv:3: 'label' is '': must be the name"),
        (b"sentence\tlabel\na\t0\nb\t2\n", r"train.tsv:3: label '2' is none of negative, pos"),
        (b"sentence\tlabel\na\t0\nb\t0\n", r"train.tsv:2: '0' is the label of this and of every"),
        (b"sentence\tlabel\na\t0\nb\n", r"train.tsv:3: too few cells, as in 1 of 2 rows"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "train.tsv").write_bytes(content)
    (tmp_path / "SST-2" / "dev.tsv").write_bytes(b"sentence\tlabel\na\t0\nb\t1\n")
    with pytest.raises(ValueError, match=message):
        read_task(tmp_path, "SST-2")


def test_broken_lines_are_few_or_an_error(tmp_path):
    write_sentiment(tmp_path, num_train=2000)
    path = tmp_path / "SST-2" / "train.tsv"
    whole = path.read_text()
    path.write_text(whole + "cut short\n")
    assert len(read_task(tmp_path, "SST2")[1]["train"].first) == 2000
    path.write_text(whole + "cut short\n" * 3)
    with pytest.raises(ValueError, match=r"train.tsv:2002: too few cells, as in 3 of 2003 rows"):
        read_task(tmp_path, "SST2")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no train.tsv or train.jsonl"):
        read_task(tmp_path, "SST2")


def test_names_are_found_in_any_spelling():
    assert task_named("mnli").dev_sets == ("dev_matched", "dev_mismatched")
    assert task_named("stsb").metrics == ("spearman", "pearson")
    assert task_named("mine").labels is None
