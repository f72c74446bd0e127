"""The record of an evaluation: one JSON file for a checkpoint, some tasks and a number of examples."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_efficiency import files
from megatron.checkpoint.files import read_state
from megatron.checkpoint.model import checkpoint_in, identity_of_checkpoint

FORMAT = "evaluation"
VERSION = 1


def evaluation_record(
    folder: Path, found: Mapping[str, Any], settings: Mapping[str, Any], *, seconds: float
) -> dict[str, Any]:
    """What is kept of an evaluation, as plain JSON data."""
    checkpoint = checkpoint_in(folder)
    assert checkpoint is not None
    run_settings = read_state(checkpoint).get("settings") or {}
    tasks = {task: _numbers(metrics) for task, metrics in sorted(found["results"].items())}
    record = {
        "format": FORMAT,
        "version": VERSION,
        "checkpoint": str(checkpoint),
        "identity": identity_of_checkpoint(checkpoint),
        "training_seed": run_settings.get("training", {}).get("seed"),
        **settings,
        "num_fewshot_of_tasks": dict(found.get("n-shot", {})),
        "num_items": {task: count["effective"] for task, count in found["n-samples"].items()},
        "task_versions": dict(found.get("versions", {})),
        "seconds": seconds,
        "tasks": tasks,
    }
    if "samples" in found:
        record["samples"] = {
            task: [_sample(sample) for sample in samples]
            for task, samples in found["samples"].items()
        }
    return record


def is_finished(path: Path, folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a file holds what an evaluation of a folder's present checkpoint would write.

    Args:
        settings: as in `evaluation_record`, or those of them that must be the same.
    """
    checkpoint = checkpoint_in(folder)
    if checkpoint is None or not path.is_file():
        return False
    wanted = {**settings, "identity": identity_of_checkpoint(checkpoint)}
    record = read_record(path)
    return all(record.get(name) == value for name, value in wanted.items())


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record."""
    files.write_file(path, json.dumps(record, indent=1) + "\n")


def is_record(path: Path) -> bool:
    """Whether a JSON file is a record, and not one of the others that lie in the folders of runs and results.

    Raises:
        ValueError: if it is damaged.
    """
    return _is_record(_content(path))


def read_record(path: Path) -> dict[str, Any]:
    """A record.

    Raises:
        ValueError: if the file is something else.
    """
    record: dict[str, Any] = _content(path)
    if not _is_record(record):
        raise ValueError(f"{path} is not a result of tools/evaluate_gpt.py")
    if record["version"] != VERSION:
        raise ValueError(
            f"{path} has version {record['version']}, this program reads {VERSION}: evaluate again"
        )
    return record


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def _is_record(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> value, without the filter's name, standard errors and texts."""
    return {
        name.partition(",")[0]: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and "_stderr" not in name
        and "," in name
    }


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """One item: its number, what was asked, and the answers with their log-likelihoods or texts."""
    return {
        "doc_id": sample["doc_id"],
        "arguments": _plain(sample["arguments"]),
        "responses": _plain(sample["filtered_resps"]),
        "target": _plain(sample["target"]),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
