"""The runs of a study: what each is started with, where it lies, and how far it is.

OUTPUT/<arm>/seed<seed>[_budget<share>]/run.toml     what runs
                                        job.json     the queue's word on it
                                        output.txt   what it printed
OUTPUT/replaced/...                                  runs whose settings are no longer the study's
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_efficiency import files
from megatron.study.results import RUN_FILE, RunResult, read_result
from megatron.study.study_file import Arm, Settings, Study, merged, scaled_by, with_output

JOB_FILE = "job.json"
OUTPUT_FILE = "output.txt"
State = Literal["waiting", "running", "stopped", "failed", "finished"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study."""

    arm: Arm
    seed: int
    budget: float
    folder: Path
    settings: Settings
    """The whole run file."""

    @property
    def name(self) -> str:
        """For people."""
        budget = "" if self.budget == 1 else f", budget {self.budget:g}"
        return f"{self.arm.name}, seed {self.seed}{budget}"

    @property
    def checksum(self) -> str:
        """Of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """What the queue wrote last: state, settings, attempts, seconds, exit code."""
        path = self.folder / JOB_FILE
        if not path.is_file():
            return {"state": "waiting", "settings": self.checksum, "attempts": 0, "seconds": 0.0}
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def write(self, **changes: Any) -> None:
        """Change the queue's word on the run."""
        record = {**self.record(), "settings": self.checksum, **changes}
        files.write_file(self.folder / JOB_FILE, json.dumps(record) + "\n")

    def state(self) -> State:
        """How far the run is; runs with other settings do not count."""
        record = self.record()
        return record["state"] if record["settings"] == self.checksum else "waiting"

    def result(self) -> RunResult:
        """What a finished run says."""
        return read_result(
            self.folder,
            arm=self.arm.name,
            seed=self.seed,
            budget=self.budget,
            scoring_flops=self.arm.scoring_flops,
        )


def jobs_of(study: Study, base: Settings) -> list[Job]:
    """All runs, seed by seed, so that a study that is stopped early has whole comparisons."""
    seeds = sorted({seed for arm in study.arms.values() for seed in study.seeds_of(arm)})
    order = {seed: place for place, seed in enumerate(study.seeds)}
    jobs = []
    for seed in sorted(seeds, key=lambda one: order.get(one, len(order))):
        for arm in study.arms.values():
            if seed in study.seeds_of(arm):
                jobs += [_job(study, base, arm, seed, budget) for budget in arm.budgets]
    return jobs


def _job(study: Study, base: Settings, arm: Arm, seed: int, budget: float) -> Job:
    share = "" if budget == 1 else f"_budget{budget:g}"
    folder = study.output / arm.name / f"seed{seed}{share}"
    settings = with_output(
        scaled_by(merged(base, arm.settings), budget, study.scaled), study.output
    )
    places = {"save": str(folder), "load": str(folder), "allow_missing_checkpoint": True}
    own = {"training": {"seed": seed}, "checkpoint": places}
    return Job(arm=arm, seed=seed, budget=budget, folder=folder, settings=merged(settings, own))


def set_up(job: Job, output: Path, text: str) -> str | None:
    """Make the run's folder ready, with its run file; a run of other settings is put aside.

    Args:
        output: folder of the study.
        text: content of the run file.

    Returns:
        Where an outdated run went; None if there was none.
    """
    aside = None
    if job.folder.exists() and job.record()["settings"] != job.checksum:
        number = 1
        while (
            aside := output / "replaced" / f"{job.arm.name}_{job.folder.name}_{number}"
        ).exists():
            number += 1
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(job.folder, aside)
    job.folder.mkdir(parents=True, exist_ok=True)
    files.write_file(job.folder / RUN_FILE, text)
    return None if aside is None else str(aside)


def listed(jobs: list[Job]) -> list[Mapping[str, Any]]:
    """Every run and its state, as the report lists them."""
    return [
        {"arm": job.arm.name, "seed": job.seed, "budget": job.budget, "state": job.state()}
        for job in jobs
    ]
