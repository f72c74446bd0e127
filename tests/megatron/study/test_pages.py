import json

from megatron.study import jobs_of
from megatron.study.pages import write_study_report
from tests.megatron.study.made_up_runs import write_made_up_run
from tests.megatron.study.studies import a_study


def finish(job, folder, settings=None, **more):
    """A finished run with the log that its settings would write."""
    job.set_up(folder)
    write_made_up_run(job.folder, budget=200_000, seed=job.seed, **more)
    log = job.folder / "log.jsonl"
    start, *rest = log.read_text().splitlines()
    record = {**json.loads(start), "settings": settings or job.settings}
    log.write_text("\n".join([json.dumps(record), *rest]) + "\n")
    job.write(state="finished")


def test_a_study_in_progress(tmp_path):
    study = a_study(tmp_path)
    jobs = jobs_of(study)
    for job in jobs[:3]:
        finish(job, study.output)
    jobs[3].write(state="failed")
    text = write_study_report(study, jobs)
    assert "- fast, seed 2, budget 1: failed" in text
    assert "- fast: `training.lr`: 0.001 → 0.002" in text
    report = json.loads((study.output / "report.json").read_text())
    assert [one["seeds"] for one in report["comparisons"]] == [[1]]
    assert report["refused"] == {}
    assert (study.output / "report.png").is_file()
    assert len((study.output / "results.jsonl").read_text().splitlines()) == 3


def test_a_run_that_is_not_what_the_file_says_is_refused(tmp_path):
    study = a_study(tmp_path)
    jobs = jobs_of(study)
    for job in jobs[:3]:
        finish(job, study.output)
    wrong = {**jobs[3].settings, "training": {**jobs[3].settings["training"], "lr": 9.0}}
    finish(jobs[3], study.output, settings=wrong)
    write_study_report(study, jobs)
    report = json.loads((study.output / "report.json").read_text())
    assert report["refused"] == {"fast": ["settings.training.lr is 9.0, the study's 0.002"]}
    assert report["comparisons"] == []
    for job in jobs:
        finish(job, study.output, settings=wrong)
    assert "settings.training.lr is 9.0" in write_study_report(study, jobs)


def test_a_finished_run_without_a_result_is_listed_as_such(tmp_path):
    study = a_study(tmp_path)
    jobs = jobs_of(study)
    for job in jobs:
        job.write(state="finished")
    assert "4 without a result" in write_study_report(study, jobs)
