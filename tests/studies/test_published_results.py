"""Every published page follows from the results beside it and from its study's file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from megatron.study import jobs_of, read_study, write_study_report

FOLDER = Path(__file__).parents[2] / "studies"
STUDIES = [path for path in sorted(FOLDER.glob("*/*.toml")) if "[study]" in path.read_text()]
PUBLISHED = [
    path for path in STUDIES if (read_study(path).results_folder / "report.json").is_file()
]


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_a_study_can_be_planned(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(path)
    assert {job.arm.name for job in jobs_of(study)} == {*study.arms}
    assert study.results_folder is not None, "its results are kept nowhere"


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_pages_follow_from_the_results(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run of the study lies
    study = read_study(path)
    jobs = jobs_of(study)
    kept = study.results_folder
    published = json.loads((kept / "report.json").read_text())
    lines = (kept / "results.jsonl").read_text().splitlines()
    assert sum(job.kept is not None for job in jobs) == len(lines), "of other settings"
    write_study_report(replace(study, output=tmp_path / "again", results=None), jobs)
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    finished = [run for run in published["runs"] if run["state"] == "finished"]
    assert [run for run in again.pop("runs") if run["state"] == "finished"] == finished
    for content in (again, published):
        content.pop("notes")
    assert again == {key: value for key, value in published.items() if key != "runs"}
    pictures = [matplotlib.image.imread(f / "report.png") for f in (kept, tmp_path / "again")]
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.01


def test_another_number_is_noticed(tmp_path, monkeypatch):
    """The test above can fail: one result that is changed gives another page."""
    if not PUBLISHED:
        pytest.skip("nothing is published yet")
    folder = shutil.copytree(PUBLISHED[0].parent, tmp_path / "study")
    path = folder / PUBLISHED[0].name
    file = read_study(path).results_folder / "results.jsonl"
    lines = file.read_text().splitlines()
    record = json.loads(lines[0])
    record["value"] += 0.01
    file.write_text("\n".join([json.dumps(record), *lines[1:]]))
    with pytest.raises(AssertionError):
        test_pages_follow_from_the_results(path, tmp_path, monkeypatch)
