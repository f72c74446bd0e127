"""lm-eval tasks on files of the user's, for machines without a network: `--include_path` reads them.

The files are JSON lines: `query`, `choices` and `gold` for multiple choice, `context` and
`continuation` for LAMBADA, `context_options`, `continuation` and `gold` for Winograd schemas; WikiText-2 is
the word-level text. Prompts and metrics are those of lm-eval's tasks of the same name.

Source: the format is that of MosaicML's llm-foundry (`scripts/eval/local_data`), which holds all the
JSON files.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.corpus.text_sources import find_sources, read_blocks, records_of

VERSION = 2.0
"""1.0 could have the question itself among the examples before it."""
WIKITEXT_FILE = "wikitext-2.test.txt"
_PAGES_FILE = "wikitext-2.test.jsonl"
# lm-eval's own undoing of the word-level spacing, and its count of words.
_WIKITEXT = "!function lm_eval.tasks.wikitext.preprocess_wikitext"
# " = Robert Boulter = ": one sign on each side is a page, more are its sections.
_TITLE = re.compile(r"^ = [^=].*[^=] = $", flags=re.MULTILINE)
_ACCURACY = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
_ACCURACIES = [*_ACCURACY, {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}]
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
}
_QUESTION = _CHOICE | {"doc_to_text": "{{query.rstrip()}}\nAnswer:", "metric_list": _ACCURACIES}
# Task -> its file and what lm-eval needs to know.
_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "local_lambada_openai": (
        "lambada_openai.jsonl",
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{' ' + continuation}}",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                *_ACCURACY,
            ],
        },
    ),
    "local_piqa": ("piqa.jsonl", _QUESTION),
    "local_arc_easy": ("arc_easy.jsonl", _QUESTION),
    "local_arc_challenge": ("arc_challenge.jsonl", _QUESTION),
    "local_openbookqa": ("openbook_qa.jsonl", _CHOICE | {"metric_list": _ACCURACIES}),
    "local_boolq": (
        "boolq.jsonl",
        _QUESTION
        | {
            "doc_to_text": "{{query.removeprefix('Passage: ').rstrip()}}\nAnswer:",
            "metric_list": _ACCURACY,
        },
    ),
    "local_copa": ("copa.jsonl", _CHOICE | {"metric_list": _ACCURACY}),
    "local_wsc273": (
        "winograd_wsc.jsonl",
        {
            "output_type": "multiple_choice",
            "doc_to_text": "gold",
            "doc_to_choice": "{{context_options}}",
            "doc_to_target": "{{continuation}}",
            "metric_list": _ACCURACY,
        },
    ),
    "local_wikitext": (
        WIKITEXT_FILE,
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": f"{_WIKITEXT}.wikitext_detokenizer",
            "process_results": f"{_WIKITEXT}.process_results",
            "metric_list": [
                {"metric": metric}
                for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")
            ],
        },
    ),
}
LOCAL_TASKS = tuple(_TASKS)
_CHOICE_ROW: tuple[tuple[str, ...], str | None] = (("query",), "choices")
# Task -> the texts of a row, and its list of choices, whose right one is `gold`.
_ROWS = {
    "local_lambada_openai": (("context", "continuation"), None),
    "local_wsc273": (("continuation",), "context_options"),
}


def write_task_files(data_folder: Path, target: Path, tasks: Iterable[str] = LOCAL_TASKS) -> None:
    """Writes a YAML file for each task into a folder, for lm-eval's `include_path`.

    Raises:
        FileNotFoundError: if the data folder, or the file of a task, is not there.
        ValueError: with file and line, if a row is not what its task asks for.
    """
    if not data_folder.is_dir():
        raise FileNotFoundError(f"--data-folder is {data_folder}: no such folder")
    target.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        name, settings = _TASKS[task]
        file = data_folder.resolve() / name
        if not file.is_file():
            raise FileNotFoundError(f"--data-folder is {data_folder}: {task} needs {name} in it")
        if name == WIKITEXT_FILE:
            file = _write_pages(file, target.resolve())
        else:
            _check_rows(file, task)
        description = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            # Said, lm-eval leaves a question out of its own examples; of a task that says nothing it does not.
            "fewshot_split": "test",
            **settings,
            "metadata": {"version": VERSION},
        }
        # JSON is YAML, but for functions: they are tags without quotes.
        text = re.sub(r'"(!function [\w.]+)"', r"\1", json.dumps(description, indent=1))
        (target / f"{task}.yaml").write_text(text + "\n", encoding="utf-8")


def _check_rows(file: Path, task: str) -> None:
    """Raise ValueError for the first row that lacks what the task asks: lm-eval would score "None"."""
    texts, options = _ROWS.get(task, _CHOICE_ROW)
    num_rows = 0
    for block in read_blocks(find_sources([file])[0]):
        for where, row in records_of(block):
            num_rows += 1
            for name in texts:
                _require(_is_text(row.get(name)), where, name, row, "a text that is not blank")
            if options is not None:
                choices = row.get(options)
                fine = (
                    isinstance(choices, list) and len(choices) > 1 and all(map(_is_text, choices))
                )
                _require(fine, where, options, row, "a list of two texts or more, none blank")
                gold, last = row.get("gold"), len(row[options]) - 1
                fine = type(gold) is int and 0 <= gold <= last
                _require(fine, where, "gold", row, f"the number of a choice, 0 to {last}")
    if not num_rows:
        raise ValueError(f"{file} has no rows")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _require(fine: bool, where: str, name: str, row: Mapping[str, Any], rule: str) -> None:
    if not fine:
        found = f"is {row[name]!r:.60}" if name in row else "is missing"
        raise ValueError(f"{where}: {name!r} {found}: must be {rule}")


def pages_of_wikitext(text: str) -> list[str]:
    """The articles of WikiText's word-level text, each with its title, whitespace as it was."""
    starts = [match.start() for match in _TITLE.finditer(text)]
    return [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]


def _write_pages(file: Path, target: Path) -> Path:
    """The pages of a WikiText file as JSON lines."""
    with files.reading(file):
        pages = pages_of_wikitext(file.read_text(encoding="utf-8"))
    if not pages:
        raise ValueError(f"{file} has no page titles ( = Title = ): not WikiText at word level")
    output = target / _PAGES_FILE
    output.write_text(
        "".join(json.dumps({"page": page}) + "\n" for page in pages), encoding="utf-8"
    )
    return output
