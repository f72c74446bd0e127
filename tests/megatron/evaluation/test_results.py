import json

import pytest

from megatron.evaluation.results import evaluation_record, is_finished, read_record, write_record
from tests.megatron.small_models import GPT2, make_gpt, save_run

FOUND = {
    "results": {
        "local_piqa": {
            "alias": "local_piqa",
            "acc,none": 0.5,
            "acc_stderr,none": "N/A",
            "acc_norm,none": 1,
            "acc_norm_stderr,none": 0.1,
            "sample_len": 4,
        }
    },
    "n-shot": {"local_piqa": 2},
    "n-samples": {"local_piqa": {"original": 9, "effective": 4}},
    "versions": {"local_piqa": 1.0},
    "samples": {
        "local_piqa": [
            {
                "doc_id": 0,
                "arguments": [("a", " b")],
                "filtered_resps": [(-1.5, True)],
                "target": "1",
                "doc": {"query": "a"},
            }
        ]
    },
}


def test_what_is_written_is_read(tmp_path):
    run = save_run(tmp_path / "run", make_gpt(GPT2), step=7)
    record = evaluation_record(run, FOUND, {"num_fewshot": 2}, seconds=1.5)
    path = tmp_path / "results" / "a.json"
    write_record(path, record)
    assert read_record(path) == record
    assert record["tasks"] == {"local_piqa": {"acc": 0.5, "acc_norm": 1.0}}
    assert record["identity"]["step"] == 7
    assert record["num_items"] == {"local_piqa": 4}
    sample = record["samples"]["local_piqa"][0]
    assert (sample["arguments"], sample["responses"]) == ([["a", " b"]], [[-1.5, True]])
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_newer_checkpoint_or_another_setting_makes_a_record_outdated(tmp_path):
    run, path = tmp_path / "run", tmp_path / "a.json"
    assert not is_finished(path, run, {})
    save_run(run, make_gpt(GPT2), step=7)
    assert not is_finished(path, run, {})
    settings = {"num_fewshot": 2, "limit": None}
    write_record(path, evaluation_record(run, FOUND, settings, seconds=1.5))
    assert is_finished(path, run, settings)
    assert is_finished(path, run, {"num_fewshot": 2})
    assert not is_finished(path, run, {"num_fewshot": 0})
    assert not is_finished(path, run, {"log_samples": False})
    save_run(run, make_gpt(GPT2, seed=1), step=8)
    assert not is_finished(path, run, settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a result of tools/evaluate_gpt.py"),
        (json.dumps({"format": "evaluation", "version": 9}), "has version 9, this program reads 1"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_record(path)
