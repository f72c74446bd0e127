import json
import tomllib
from dataclasses import replace

import pytest

from data_efficiency import ConfigError
from megatron.study import read_study
from megatron.study.fairness import unlike
from megatron.study.jobs import RUN_FILE, jobs_of, pilot_of, runs_left
from megatron.study.results import results_as_json
from tests.megatron.study.made_up_runs import write_made_up_run
from tests.megatron.study.simulated import a_result
from tests.megatron.study.studies import BASE, STUDY, a_study


def test_seed_by_seed_each_in_a_folder_of_its_own(tmp_path):
    text = STUDY.replace("seeds = [1, 2]", "seeds = [2, 1]\nbudgets = [0.5, 1.0]")
    jobs = jobs_of(a_study(tmp_path, text))
    assert [job.key for job in jobs] == [
        *[("baseline", 2, 0.5), ("baseline", 2, 1.0), ("fast", 2, 1.0)],
        *[("baseline", 1, 0.5), ("baseline", 1, 1.0), ("fast", 1, 1.0)],
    ]
    folder = tmp_path / "runs"
    assert [job.folder for job in jobs[:3]] == [
        folder / "baseline" / "seed2_budget0.5",
        folder / "baseline" / "seed2",
        folder / "fast" / "seed2",
    ]
    assert jobs[0].name == "baseline, seed 2, budget 0.5"


def test_settings_are_the_bases_the_arms_and_the_runs_own(tmp_path):
    text = STUDY.replace("seeds = [1, 2]", "budgets = [0.5]\nseeds = [5]")
    base, fast = jobs_of(a_study(tmp_path, text))
    assert base.config.training.train_tokens == 500
    assert (base.config.training.lr, fast.config.training.lr) == (1e-3, 2e-3)
    assert fast.config.training.train_tokens == 1000
    assert fast.config.training.seed == 5
    assert fast.config.data.data_path == (f"{tmp_path}/runs/text",)
    assert fast.config.checkpoint.save == fast.config.checkpoint.load == str(fast.folder)
    assert fast.config.checkpoint.allow_missing_checkpoint


def test_a_setting_that_names_the_seed(tmp_path):
    """So that each seed of an arm starts from its own model of another study."""
    text = STUDY + '[arms.more]\ndata.data_path = ["{output}/seed{seed}/text"]\n'
    jobs = [job for job in jobs_of(a_study(tmp_path, text)) if job.arm.name == "more"]
    paths = [job.config.data.data_path for job in jobs]
    assert paths == [(f"{tmp_path}/runs/seed{seed}/text",) for seed in (1, 2)]


def test_an_arms_own_seeds(tmp_path):
    jobs = jobs_of(a_study(tmp_path, STUDY + "[arms.more]\nseeds = [7]\n"))
    assert [job.seed for job in jobs if job.arm.name == "more"] == [7]


def test_what_the_queue_writes_counts_until_the_settings_change(tmp_path):
    job = jobs_of(a_study(tmp_path))[-1]
    assert job.state == "waiting"
    assert job.set_up(tmp_path / "runs") is None
    assert tomllib.loads((job.folder / RUN_FILE).read_text())["training"]["lr"] == 2e-3
    job.write(state="finished", attempts=1)
    assert job.state == "finished"
    (job.folder / "job.json").write_text('{"state": "finished"}')
    with pytest.raises(ValueError, match=r"job\.json: run_file is None; delete this file"):
        job.set_up(tmp_path / "runs")
    (job.folder / "job.json").unlink()
    job.write(state="finished", attempts=1)
    changed = jobs_of(a_study(tmp_path, STUDY.replace("2e-3", "3e-3")))[-1]
    assert changed.is_outdated
    assert changed.state == "waiting"
    aside = changed.set_up(tmp_path / "runs")
    assert aside == tmp_path / "runs" / "replaced" / "fast_seed2_1"
    assert (aside / "job.json").is_file()
    assert not changed.is_outdated
    changed.write(state="finished")
    assert job.set_up(tmp_path / "runs").name == "fast_seed2_2"


def test_a_setting_that_is_only_named_makes_no_other_run(tmp_path):
    """Nor the order of tables and keys, nor a new setting with a default."""
    job = jobs_of(a_study(tmp_path))[-1]
    named = STUDY + "adam_eps = 1e-8\n"
    assert jobs_of(a_study(tmp_path, named))[-1].checksum == job.checksum
    other = STUDY + "adam_eps = 1e-7\n"
    assert jobs_of(a_study(tmp_path, other))[-1].checksum != job.checksum
    section = STUDY + "[arms.fast.engine]\nsteps_per_print = 3\n"
    assert jobs_of(a_study(tmp_path, section))[-1].checksum != job.checksum


def test_results_kept_beside_the_study_are_finished_runs(tmp_path):
    text = STUDY.replace("[study]", '[study]\nresults = "kept"', 1)
    jobs = jobs_of(a_study(tmp_path, text))
    assert {job.state for job in jobs} == {"waiting"}
    kept = [
        replace(a_result(job.arm.name, job.seed, 4.0), facts={"settings": job.settings})
        for job in jobs[1:]
    ]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "results.jsonl").write_text(results_as_json(kept))
    first, *others = jobs_of(a_study(tmp_path, text))
    assert first.state == "waiting"
    assert [(job.state, job.result().value) for job in others] == [("finished", 4.0)] * 3
    changed = jobs_of(a_study(tmp_path, text.replace("2e-3", "3e-3")))
    assert [job.state for job in changed] == ["waiting", "waiting", "finished", "waiting"]
    # A run that does not name a setting is older than it, and had its default.
    for one in kept:
        del one.facts["settings"]["training"]["adam_eps"]
    (tmp_path / "kept" / "results.jsonl").write_text(results_as_json(kept))
    assert jobs_of(a_study(tmp_path, text))[-1].state == "finished"
    assert jobs_of(a_study(tmp_path, text + "adam_eps = 1e-7\n"))[-1].state == "waiting"


PILOT = """
[study]
base = "base.toml"
results = "pilot_kept"
seeds = [8, 9]
[values]
{values}
[each.training]
lr = [1e-3, 4e-3]
[arms.baseline]
[arms.fast]
"""
PILOTED = (
    STUDY.replace("[study]", '[study]\npilot = "pilot.toml"') + "[arms.alike]\nlike = ['fast']\n"
)


def keep_pilot(folder, values):
    """Write a pilot, and results of its runs: (arm, rate) -> a loss for each of its two seeds."""
    folder.mkdir(exist_ok=True)
    (folder / "pilot.toml").write_text(PILOT.format(values=""))
    study = read_study(folder / "pilot.toml")
    for case in study.cases:
        kept = [
            replace(
                a_result(job.arm.name, job.seed, losses[job.seed - 8]),
                facts={"settings": job.settings},
            )
            for job in jobs_of(study)
            if job.case == case and (losses := values.get((job.arm.name, float(case))))
        ]
        (folder / "pilot_kept" / case).mkdir(parents=True, exist_ok=True)
        (folder / "pilot_kept" / case / "results.jsonl").write_text(results_as_json(kept))


def test_arms_have_what_was_best_in_the_pilot(tmp_path):
    """By the mean over its seeds; an arm that lacks a run stays as it is, one like another has that one's."""
    (tmp_path / "base.toml").write_text(BASE)
    losses = {("baseline", 1e-3): (4.0, 4.0), ("baseline", 4e-3): (3.5, 4.6)}
    keep_pilot(tmp_path, {**losses, ("fast", 1e-3): (4.0, 4.0), ("fast", 4e-3): (3.9, 3.9)})
    rates = {job.arm.name: job.config.training.lr for job in jobs_of(a_study(tmp_path, PILOTED))}
    assert rates == {"baseline": 1e-3, "fast": 4e-3, "alike": 4e-3}
    keep_pilot(tmp_path, {**losses, ("fast", 4e-3): (3.9, 3.9)})
    study = a_study(tmp_path, PILOTED)
    rates = {job.arm.name: job.config.training.lr for job in jobs_of(study)}
    assert rates == {"baseline": 1e-3, "fast": 2e-3, "alike": 2e-3}
    assert [job.state for job in pilot_of(study)].count("waiting") == 2


def test_a_rate_at_which_a_run_failed_or_has_no_loss_is_not_chosen(tmp_path, monkeypatch):
    """Nor does it leave the study waiting."""
    monkeypatch.chdir(tmp_path)  # where the pilot's runs lie
    (tmp_path / "base.toml").write_text(BASE)
    keep_pilot(tmp_path, {("baseline", 1e-3): (4.0, 4.0), ("fast", 1e-3): (4.0, 4.0)})
    study = a_study(tmp_path, PILOTED)
    diverged, *failed = runs_left(pilot_of(study))
    assert len(failed) == 3
    for job in failed:
        job.set_up(tmp_path)
        job.write(state="failed")
    diverged.set_up(tmp_path)
    write_made_up_run(diverged.folder, budget=200_000, seed=8)
    log = diverged.folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "valid":
            line["loss"] = float("nan")
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    diverged.write(state="finished")
    with pytest.raises(ValueError, match="nan"):
        diverged.result()
    assert not runs_left(pilot_of(study))
    rates = {job.arm.name: job.config.training.lr for job in jobs_of(study)}
    assert rates == {"baseline": 1e-3, "fast": 1e-3, "alike": 1e-3}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[each.training]\nlr = [1e-3, 4e-3]\n", "", "it needs an"),
        ("[study]", '[study]\npilot = "my_study.toml"', "it has a pilot itself"),
    ],
)
def test_a_pilot_that_chooses_nothing_is_refused(old, new, message, tmp_path):
    (tmp_path / "pilot.toml").write_text(PILOT.format(values="").replace(old, new))
    with pytest.raises(ConfigError, match=f"pilot is 'pilot.toml': {message}"):
        jobs_of(a_study(tmp_path, PILOTED))


def test_a_pilot_is_made_with_the_studys_values(tmp_path):
    text = PILOTED.replace(
        "[arms.baseline]", "[values]\ncorpus = 'mine'\nother = 'y'\n[arms.baseline]"
    )
    pilot = (
        PILOT.format(values='corpus = ""\nmore = "x"')
        + "[arms.fast.data]\ndata_path = ['{corpus}{more}']\n"
    )
    (tmp_path / "pilot.toml").write_text(pilot)
    runs = pilot_of(a_study(tmp_path, text))
    assert {job.config.data.data_path for job in runs if job.arm.name == "fast"} == {("minex",)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lr = 2e-3", "learning = 1"), r"\[arms.fast\]"),
        (("lr = 2e-3", "lr = 'x'"), r"\[arms.fast\].*lr is 'x'"),
        (("base.toml", "none.toml"), "none.toml"),
    ],
)
def test_an_arm_that_is_no_run_is_refused_by_its_place(change, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        jobs_of(a_study(tmp_path, STUDY.replace(*change)))


STAGES = """
[[arms.staged.stages]]
share = 0.5
seq_length = 16

[[arms.staged.stages]]
share = 0.5
lr_factor = 2
"""


def test_an_arm_of_stages_is_the_run_that_its_log_says(tmp_path):
    """And a run from before there were stages is one without."""
    text = STUDY.replace("[arms.fast", f"[arms.staged]\n{STAGES}\n[arms.fast", 1)
    jobs = {job.arm.name: job for job in jobs_of(a_study(tmp_path, text))}
    staged, plain = jobs["staged"], jobs["baseline"]
    assert [stage.seq_length for stage in staged.config.stages] == [16, None]
    logged = json.loads(json.dumps(staged.settings))
    assert (
        unlike(
            staged.settings,
            replace(a_result("a", 1, 1.0), facts={"settings": logged}),
            staged.defaults,
        )
        == []
    )
    logged["stages"][1]["lr_factor"] = 3.0
    assert unlike(
        staged.settings, replace(a_result("a", 1, 1.0), facts={"settings": logged}), staged.defaults
    )
    before = json.loads(json.dumps(plain.settings))
    del before["stages"]
    assert (
        unlike(
            plain.settings,
            replace(a_result("a", 1, 1.0), facts={"settings": before}),
            plain.defaults,
        )
        == []
    )
